"""GraphQL requests over HTTP: their retries, and the translation of their errors."""

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import wraps
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

import httpx

from tidemill_airflow import graphql
from tidemill_airflow.errors import (
    BridgeError,
    DagsterRejected,
    DagsterUnreachable,
    ResponseLost,
    UnknownAsset,
)
from tidemill_airflow.hooks.endpoint import Endpoint
from tidemill_airflow.runs import Run

JsonObject = dict[str, Any]
P = ParamSpec("P")
T = TypeVar("T")
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Retry:
    """Retries every `interval` seconds `until` this time (seconds since 1970); by default none."""

    until: float = 0.0
    interval: float = 1.0

    def wait_or_raise(self, error: BridgeError) -> None:
        """Wait before the next try. Raises the error if there is none."""
        if time.time() >= self.until:
            raise error
        _log.warning("%s", error)
        time.sleep(self.interval)


class HasRetry(Protocol):
    """A client whose methods may be `retried`."""

    retry: Retry


H = TypeVar("H", bound=HasRetry)


def retried(method: Callable[Concatenate[H, P], T]) -> Callable[Concatenate[H, P], T]:
    """The method, retried as the client's `retry` says while Dagster does not respond."""

    @wraps(method)
    def until_response(client: H, /, *args: P.args, **kwargs: P.kwargs) -> T:
        while True:
            try:
                return method(client, *args, **kwargs)
            except (DagsterUnreachable, ResponseLost) as error:
                client.retry.wait_or_raise(error)

    return until_response


def execute(
    endpoint: Endpoint, document: str, variables: Mapping[str, object], timeout: float
) -> JsonObject:
    """The data of the response. Raises `DagsterUnreachable`, `ResponseLost`, `DagsterRejected`."""
    try:
        with httpx.Client(**_client_kwargs(endpoint, timeout)) as client:
            response = client.post(endpoint.graphql_url, json=_request_body(document, variables))
    except httpx.TransportError as error:
        raise _translate_error(endpoint, error) from error
    return _parse_response(endpoint, response)


async def aexecute(
    endpoint: Endpoint, document: str, variables: Mapping[str, object], timeout: float
) -> JsonObject:
    """As `execute`, for triggers."""
    try:
        async with httpx.AsyncClient(**_client_kwargs(endpoint, timeout)) as client:
            response = await client.post(
                endpoint.graphql_url, json=_request_body(document, variables)
            )
    except httpx.TransportError as error:
        raise _translate_error(endpoint, error) from error
    return _parse_response(endpoint, response)


def _client_kwargs(endpoint: Endpoint, timeout: float) -> dict[str, Any]:
    """Loads certificates only for HTTPS: loading them takes longer than most requests."""
    verify = endpoint.base_url.startswith("https:")
    return {"headers": dict(endpoint.headers), "timeout": timeout, "verify": verify}


def _request_body(document: str, variables: Mapping[str, object]) -> dict[str, object]:
    return {"query": document, "variables": variables}


def _translate_error(endpoint: Endpoint, error: httpx.TransportError) -> BridgeError:
    detail = str(error) or type(error).__name__
    if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.UnsupportedProtocol):
        return DagsterUnreachable(
            f"Cannot connect to {endpoint.base_url}: {detail}.",
            "Check that dagster-webserver runs there, and the host and port of the connection.",
        )
    return ResponseLost(f"No response from {endpoint.base_url}: {detail}.", "It is retried.")


def _parse_response(endpoint: Endpoint, response: httpx.Response) -> JsonObject:
    """The data of a response. Dagster sends a valid body with HTTP 500, too."""
    if response.status_code in (401, 403):
        raise DagsterRejected(
            f"{endpoint.base_url} rejects the token: HTTP {response.status_code}.",
            "Set a valid token as the password of the connection.",
        )
    try:
        body = response.json()
        data, errors = body.get("data"), body.get("errors")
    except (ValueError, AttributeError):
        raise ResponseLost(
            f"{endpoint.base_url} returned HTTP {response.status_code} without JSON.",
            "Check that this is dagster-webserver, and any proxy in front of it.",
        ) from None
    if errors or data is None:
        raise DagsterRejected(
            f"{endpoint.base_url} rejects the request: {graphql.error_message(body)}.",
            "Fix what the message names.",
        )
    return dict(data)


def extract_run(data: JsonObject) -> Run:
    """The run of a response."""
    node = data["runOrError"]
    if node["__typename"] != "Run":
        raise DagsterRejected(
            f"Dagster does not have the run: {graphql.error_message(node)}.", "Was it deleted?"
        )
    return graphql.parse_run(node)


def extract_materialized_at(data: JsonObject, asset: str) -> float | None:
    """When the asset of a response was last materialized; seconds since 1970."""
    node = data["assetNodeOrError"]
    if node["__typename"] != "AssetNode":
        raise UnknownAsset(f"Dagster has no asset {asset}.", "Compare Dagster's catalog.")
    materializations = node["assetMaterializations"]
    return float(materializations[0]["timestamp"]) / 1000 if materializations else None
