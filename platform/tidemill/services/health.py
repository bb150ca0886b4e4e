"""Health checks of services, made from outside as their clients would.

The images of `deploy/docker/` contain this file as a program: its arguments are a check of `CHECKS`
and the arguments of that check, and it exits with 0 if the service is healthy. Therefore it imports
only the standard library.
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
"""Whether a service is healthy; it never raises, and returns within seconds."""

_TIMEOUT_SECONDS = 10.0
_DAEMON_HEALTH_QUERY = "{ instance { daemonHealth { allDaemonStatuses { required healthy } } } }"
_CODE_LOCATIONS_QUERY = """
{ workspaceOrError { ... on Workspace { locationEntries {
  loadStatus locationOrLoadError { __typename } } } } }
"""


def is_listening(address: Path | str) -> HealthCheck:
    """A process listens at the address: a UNIX socket, or `HOST:PORT`."""
    if isinstance(address, Path):
        return lambda: _can_connect(socket.AF_UNIX, str(address))
    host, port = address.rsplit(":", 1)
    return lambda: _can_connect(socket.AF_INET, (host, int(port)))


def responds(url: str) -> HealthCheck:
    """A GET request to the URL succeeds."""
    return lambda: _fetch_json(url) is not None


def code_locations_loaded(url: str) -> HealthCheck:
    """Dagster's webserver at the URL has loaded all code locations."""

    def is_healthy() -> bool:
        workspace = _graphql(url, _CODE_LOCATIONS_QUERY).get("workspaceOrError", {})
        locations = workspace.get("locationEntries")
        return bool(locations) and all(
            (entry["locationOrLoadError"] or {}).get("__typename") == "RepositoryLocation"
            for entry in locations
        )

    return is_healthy


def daemons_healthy(url: str) -> HealthCheck:
    """Dagster's webserver reports a recent heartbeat of each required daemon."""

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
    """Airflow's API server at the URL reports the component as healthy."""

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
    """The decoded response, empty if it is not JSON; None if the request failed."""
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
    "listening": is_listening,
    "responds": responds,
    "code-locations": code_locations_loaded,
    "daemons": daemons_healthy,
    "airflow": airflow_component_healthy,
}

if __name__ == "__main__":
    check, *arguments = sys.argv[1:]
    sys.exit(not CHECKS[check](*arguments)())
