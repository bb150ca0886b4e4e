"""The endpoint of Dagster, validated from the fields of an Airflow connection."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tidemill_airflow.errors import InvalidInput

if TYPE_CHECKING:
    from airflow.sdk import Connection

_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?|\[[0-9A-Fa-f:.]{2,45}\]")
_PATH = re.compile(r"(/(?!\.{1,2}(/|$))[A-Za-z0-9._~-]+)*")
_UI_URL = re.compile(r"https?://[^\s\"'<>\\]{1,500}")


@dataclass(frozen=True)
class Endpoint:
    """The URL of a webserver, its URL for people, and the headers that authenticate requests."""

    base_url: str
    ui_url: str
    headers: Mapping[str, str]

    @property
    def graphql_url(self) -> str:
        return f"{self.base_url}/graphql"

    def run_url(self, run_id: str) -> str:
        """The URL of a run in Dagster's UI."""
        return f"{self.ui_url}/runs/{run_id}"


def endpoint_from_connection(connection: "Connection") -> Endpoint:
    """The endpoint of an Airflow connection. Raises `InvalidInput`."""
    return build_endpoint(
        connection.conn_id,
        connection.host,
        connection.port,
        connection.schema,
        connection.password,
        connection.extra_dejson,
    )


def build_endpoint(
    conn_id: str,
    host: str | None,
    port: int | None,
    scheme: str | None,
    token: str | None,
    extra: Mapping[str, Any],
) -> Endpoint:
    """The endpoint of these fields. Raises `InvalidInput`, which never contains the token."""
    scheme, host, path = scheme or "http", host or "127.0.0.1", str(extra.get("path") or "")
    if scheme not in ("http", "https"):
        raise _invalid_field(conn_id, "scheme", scheme, "http or https")
    if not _HOST.fullmatch(host) or ".." in host:
        raise _invalid_field(
            conn_id, "host", host, "a name or an address, such as dagster.internal"
        )
    if port is not None and not 1 <= port <= 65535:
        raise _invalid_field(conn_id, "port", str(port), "a number from 1 to 65535")
    if not _PATH.fullmatch(path.rstrip("/")):
        raise _invalid_field(conn_id, "extra.path", path, "a path prefix, such as /dagster")
    port = port or (443 if scheme == "https" else 3000)
    base_url = f"{scheme}://{host}:{port}{path.rstrip('/')}"
    ui_url = str(extra.get("ui") or base_url).rstrip("/")
    if not _UI_URL.fullmatch(ui_url):
        raise _invalid_field(
            conn_id, "extra.ui", ui_url, "a URL that begins with http:// or https://"
        )
    if token is not None and not re.fullmatch(r"[\x21-\x7e]*", token):
        raise InvalidInput(
            f"The token of connection {conn_id} contains a blank or a non-ASCII character.",
            "Enter it again.",
        )
    auth_headers = (
        {"Dagster-Cloud-Api-Token": token, "Authorization": f"Bearer {token}"} if token else {}
    )
    return Endpoint(base_url, ui_url, auth_headers)


def _invalid_field(conn_id: str, field: str, value: str, expected: str) -> InvalidInput:
    return InvalidInput(
        f"The {field} of connection {conn_id} is {value[:80]!r}.", f"Use {expected}."
    )
