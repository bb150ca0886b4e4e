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

Health = Callable[[], bool]
"""Whether it is well; it never raises, and takes seconds at most."""

_SECONDS = 10.0
_DAEMONS = "{ instance { daemonHealth { allDaemonStatuses { required healthy } } } }"
_CODE = """
{ workspaceOrError { ... on Workspace { locationEntries {
  loadStatus locationOrLoadError { __typename } } } } }
"""


def listens(at: Path | str) -> Health:
    """Somebody listens there: at a socket file, or at `HOST:PORT`."""
    if isinstance(at, Path):
        return lambda: _connects(socket.AF_UNIX, str(at))
    host, port = at.rsplit(":", 1)
    return lambda: _connects(socket.AF_INET, (host, int(port)))


def answers(address: str) -> Health:
    """A GET there is a success."""
    return lambda: _asked(address) is not None


def code(address: str) -> Health:
    """Dagster's webserver there has loaded all code."""

    def well() -> bool:
        told = _graphql(address, _CODE).get("workspaceOrError", {}).get("locationEntries")
        return bool(told) and all(
            (entry["locationOrLoadError"] or {}).get("__typename") == "RepositoryLocation"
            for entry in told
        )

    return well


def daemon(address: str) -> Health:
    """Each part of Dagster's daemon that must beat has done so lately, says the webserver."""

    def well() -> bool:
        told = _graphql(address, _DAEMONS).get("instance", {}).get("daemonHealth", {})
        parts = [part for part in told.get("allDaemonStatuses", ()) if part["required"]]
        return bool(parts) and all(part["healthy"] for part in parts)

    return well


def airflow(address: str, part: str) -> Health:
    """This part of Airflow is healthy, says its API server there."""

    def well() -> bool:
        told = _asked(f"{address}/api/v2/monitor/health")
        return bool(told) and told.get(part, {}).get("status") == "healthy"

    return well


def _connects(family: socket.AddressFamily, address: Any) -> bool:
    with socket.socket(family) as client:
        client.settimeout(_SECONDS)
        try:
            client.connect(address)
        except OSError:
            return False
        return True


def _graphql(address: str, query: str) -> Mapping[str, Any]:
    told = _asked(f"{address}/graphql", json.dumps({"query": query}).encode())
    return (told or {}).get("data") or {}


def _asked(address: str, data: bytes | None = None) -> Any:
    """The answer, an empty one where it is no JSON; None without a successful one."""
    try:
        wanted = Request(address, data, {"content-type": "application/json"} if data else {})
        with urlopen(wanted, timeout=_SECONDS) as reply:
            body = reply.read()
    except (OSError, HTTPError):
        return None
    try:
        return json.loads(body)
    except ValueError:
        return {}


CHECKS: Mapping[str, Callable[..., Health]] = {
    "listens": listens,
    "answers": answers,
    "code": code,
    "daemon": daemon,
    "airflow": airflow,
}

if __name__ == "__main__":
    check, *asked = sys.argv[1:]
    sys.exit(not CHECKS[check](*asked)())
