"""Whether a service does what others need of it; asked from outside, as they would.

The images of `deploy/docker/` hold this file alone, as a program: it takes a check and what that
asks, and ends with 0 for well. So it needs nothing but Python.
"""

import json
import socket
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

HealthCheck = Callable[[], bool]
"""Whether it is well; it never raises, and takes seconds at most."""

_TIMEOUT_SECONDS = 10.0
_DAEMON_HEALTH_QUERY = "{ instance { daemonHealth { allDaemonStatuses { required healthy } } } }"
_CODE_LOCATIONS_QUERY = """
{ workspaceOrError { ... on Workspace { locationEntries {
  loadStatus locationOrLoadError { __typename } } } } }
"""


def is_listening(address: Path | str) -> HealthCheck:
    """Somebody listens there: at a socket file, or at `HOST:PORT`."""
    if isinstance(address, Path):
        return lambda: _can_connect(socket.AF_UNIX, str(address))
    host, port = address.rsplit(":", 1)
    return lambda: _can_connect(socket.AF_INET, (host, int(port)))


def responds(url: str) -> HealthCheck:
    """A GET there is a success."""
    return lambda: _fetch_json(url) is not None


def code_locations_loaded(url: str) -> HealthCheck:
    """Dagster's webserver there has loaded all code."""

    def is_healthy() -> bool:
        locations = (
            _graphql(url, _CODE_LOCATIONS_QUERY).get("workspaceOrError", {}).get("locationEntries")
        )
        return bool(locations) and all(
            (entry["locationOrLoadError"] or {}).get("__typename") == "RepositoryLocation"
            for entry in locations
        )

    return is_healthy


def daemons_healthy(url: str) -> HealthCheck:
    """Each part of Dagster's daemon that must beat has done so lately, says the webserver."""

    def is_healthy() -> bool:
        health = _graphql(url, _DAEMON_HEALTH_QUERY).get("instance", {}).get("daemonHealth", {})
        daemons = [
            daemon_status
            for daemon_status in health.get("allDaemonStatuses", ())
            if daemon_status["required"]
        ]
        return bool(daemons) and all(daemon_status["healthy"] for daemon_status in daemons)

    return is_healthy


def airflow_component_healthy(url: str, component: str) -> HealthCheck:
    """This part of Airflow is healthy, says its API server there."""

    def is_healthy() -> bool:
        health = _fetch_json(f"{url}/api/v2/monitor/health")
        return bool(health) and health.get(component, {}).get("status") == "healthy"

    return is_healthy


def _can_connect(family: socket.AddressFamily, address: Any) -> bool:
    with socket.socket(family) as client:
        client.settimeout(_TIMEOUT_SECONDS)
        try:
            client.connect(address)
        except OSError:
            return False
        return True


def _graphql(url: str, query: str) -> Mapping[str, Any]:
    payload = _fetch_json(f"{url}/graphql", json.dumps({"query": query}).encode())
    return (payload or {}).get("data") or {}


def _fetch_json(url: str, data: bytes | None = None) -> Any:
    """The answer, an empty one where it is no JSON; None without a successful one."""
    try:
        request = Request(url, data, {"content-type": "application/json"} if data else {})
        with urlopen(request, timeout=_TIMEOUT_SECONDS) as response:
            body = response.read()
    except (OSError, HTTPError):
        return None
    try:
        return json.loads(body)
    except ValueError:
        return {}


CHECKS: Mapping[str, Callable[..., HealthCheck]] = {
    "listens": is_listening,
    "answers": responds,
    "code": code_locations_loaded,
    "daemon": daemons_healthy,
    "airflow": airflow_component_healthy,
}

if __name__ == "__main__":
    check, *arguments = sys.argv[1:]
    sys.exit(not CHECKS[check](*arguments)())
