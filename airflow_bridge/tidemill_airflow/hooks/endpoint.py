"""Where Dagster answers, made of a connection's fields, which somebody typed."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tidemill_airflow.errors import InputRefused

_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?|\[[0-9A-Fa-f:.]{2,45}\]")
_PATH = re.compile(r"(/(?!\.{1,2}(/|$))[A-Za-z0-9._~-]+)*")
_UI = re.compile(r"https?://[^\s\"'<>\\]{1,500}")


@dataclass(frozen=True)
class Endpoint:
    """The address of a webserver, where people see it, and the headers that prove who we are."""

    address: str
    ui: str
    headers: Mapping[str, str]

    @property
    def graphql(self) -> str:
        return f"{self.address}/graphql"

    def run(self, run_id: str) -> str:
        """Where people see a run."""
        return f"{self.ui}/runs/{run_id}"


def endpoint(
    conn_id: str,
    host: str | None,
    port: int | None,
    scheme: str | None,
    token: str | None,
    extra: Mapping[str, Any],
) -> Endpoint:
    """The endpoint of these fields. Raises `InputRefused`, which never shows the token."""
    scheme, host, path = scheme or "http", host or "127.0.0.1", str(extra.get("path") or "")
    if scheme not in ("http", "https"):
        raise _refused(conn_id, "scheme", scheme, "http or https")
    if not _HOST.fullmatch(host) or ".." in host:
        raise _refused(conn_id, "host", host, "a name or an address alone: dagster.internal")
    if port is not None and not 1 <= port <= 65535:
        raise _refused(conn_id, "port", str(port), "a number from 1 to 65535")
    if not _PATH.fullmatch(path.rstrip("/")):
        raise _refused(conn_id, "extra.path", path, "the webserver's --path-prefix: /dagster")
    port = port or (443 if scheme == "https" else 3000)
    address = f"{scheme}://{host}:{port}{path.rstrip('/')}"
    ui = str(extra.get("ui") or address).rstrip("/")
    if not _UI.fullmatch(ui):
        raise _refused(conn_id, "extra.ui", ui, "an address that begins with http:// or https://")
    if token is not None and not re.fullmatch(r"[\x21-\x7e]*", token):
        raise InputRefused(f"The token of connection {conn_id} has blanks in it.", "Type it again.")
    proof = {"Dagster-Cloud-Api-Token": token, "Authorization": f"Bearer {token}"} if token else {}
    return Endpoint(address, ui, proof)


def _refused(conn_id: str, field: str, value: str, wanted: str) -> InputRefused:
    return InputRefused(
        f"The {field} of connection {conn_id} is {value[:80]!r}.", f"Write {wanted}."
    )
