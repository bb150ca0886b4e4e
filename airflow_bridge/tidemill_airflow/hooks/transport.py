"""A question and its answer, over HTTP: what was not heard, not answered, or answered with no."""

from collections.abc import Mapping
from typing import Any

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


def execute(
    endpoint: Endpoint, document: str, variables: Mapping[str, object], timeout: float
) -> JsonObject:
    """The data of an answer. Raises `DagsterUnreached`, `ReplyLost`, `DagsterRefused`."""
    try:
        with httpx.Client(**_client_kwargs(endpoint, timeout)) as client:
            response = client.post(endpoint.graphql_url, json=_request_body(document, variables))
    except httpx.TransportError as error:
        raise _translate_error(endpoint, error) from error
    return _parse_response(endpoint, response)


async def aexecute(
    endpoint: Endpoint, document: str, variables: Mapping[str, object], timeout: float
) -> JsonObject:
    """As `ask`, for triggers."""
    try:
        async with httpx.AsyncClient(**_client_kwargs(endpoint, timeout)) as client:
            response = await client.post(
                endpoint.graphql_url, json=_request_body(document, variables)
            )
    except httpx.TransportError as error:
        raise _translate_error(endpoint, error) from error
    return _parse_response(endpoint, response)


def _client_kwargs(endpoint: Endpoint, timeout: float) -> dict[str, Any]:
    """Certificates are read where they are needed: that takes longer than most answers."""
    verify = endpoint.base_url.startswith("https:")
    return {"headers": dict(endpoint.headers), "timeout": timeout, "verify": verify}


def _request_body(document: str, variables: Mapping[str, object]) -> dict[str, object]:
    return {"query": document, "variables": variables}


def _translate_error(endpoint: Endpoint, error: httpx.TransportError) -> BridgeError:
    detail = str(error) or type(error).__name__
    if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.UnsupportedProtocol):
        return DagsterUnreachable(
            f"Nobody answers at {endpoint.base_url}: {detail}.",
            "See that dagster-webserver runs there, and look at the connection's host and port.",
        )
    return ResponseLost(f"No answer came from {endpoint.base_url}: {detail}.", "It is asked again.")


def _parse_response(endpoint: Endpoint, response: httpx.Response) -> JsonObject:
    """The data of an answer; Dagster sends a valid body with HTTP 500 too."""
    if response.status_code in (401, 403):
        raise DagsterRejected(
            f"{endpoint.base_url} refuses this token: HTTP {response.status_code}.",
            "Put a valid one into the connection's password.",
        )
    try:
        body = response.json()
        data, errors = body.get("data"), body.get("errors")
    except (ValueError, AttributeError):
        raise ResponseLost(
            f"{endpoint.base_url} answers HTTP {response.status_code} and no JSON.",
            "Is it Dagster's webserver, and what is in front of it?",
        ) from None
    if errors or data is None:
        raise DagsterRejected(
            f"{endpoint.base_url} refuses: {graphql.error_message(body)}.", "Mend what it names."
        )
    return dict(data)


def extract_run(data: JsonObject) -> Run:
    """The run that an answer tells of."""
    node = data["runOrError"]
    if node["__typename"] != "Run":
        raise DagsterRejected(
            f"Dagster knows no such run: {graphql.error_message(node)}.", "Was it deleted?"
        )
    return graphql.parse_run(node)


def extract_materialized_at(data: JsonObject, asset: str) -> float | None:
    """When an asset was materialized last, by an answer; seconds since 1970."""
    node = data["assetNodeOrError"]
    if node["__typename"] != "AssetNode":
        raise UnknownAsset(f"Dagster has no asset {asset}.", "Compare its catalog.")
    materializations = node["assetMaterializations"]
    return float(materializations[0]["timestamp"]) / 1000 if materializations else None
