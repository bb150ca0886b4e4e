"""A question and its answer, over HTTP: what was not heard, not answered, or answered with no."""

from collections.abc import Mapping
from typing import Any

import httpx

from tidemill_airflow import graphql
from tidemill_airflow.errors import (
    AssetUnknown,
    BridgeError,
    DagsterRefused,
    DagsterUnreached,
    ReplyLost,
)
from tidemill_airflow.hooks.endpoint import Endpoint
from tidemill_airflow.runs import Run

Answer = dict[str, Any]


def ask(at: Endpoint, document: str, variables: Mapping[str, object], timeout: float) -> Answer:
    """The data of an answer. Raises `DagsterUnreached`, `ReplyLost`, `DagsterRefused`."""
    try:
        with httpx.Client(**_client(at, timeout)) as client:
            told = client.post(at.graphql, json=_question(document, variables))
    except httpx.TransportError as error:
        raise _unanswered(at, error) from error
    return _data(at, told)


async def aask(
    at: Endpoint, document: str, variables: Mapping[str, object], timeout: float
) -> Answer:
    """As `ask`, for triggers."""
    try:
        async with httpx.AsyncClient(**_client(at, timeout)) as client:
            told = await client.post(at.graphql, json=_question(document, variables))
    except httpx.TransportError as error:
        raise _unanswered(at, error) from error
    return _data(at, told)


def _client(at: Endpoint, timeout: float) -> dict[str, Any]:
    """Certificates are read where they are needed: that takes longer than most answers."""
    secure = at.address.startswith("https:")
    return {"headers": dict(at.headers), "timeout": timeout, "verify": secure}


def _question(document: str, variables: Mapping[str, object]) -> dict[str, object]:
    return {"query": document, "variables": variables}


def _unanswered(at: Endpoint, error: httpx.TransportError) -> BridgeError:
    told = str(error) or type(error).__name__
    if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.UnsupportedProtocol):
        return DagsterUnreached(
            f"Nobody answers at {at.address}: {told}.",
            "See that dagster-webserver runs there, and look at the connection's host and port.",
        )
    return ReplyLost(f"No answer came from {at.address}: {told}.", "It is asked again.")


def _data(at: Endpoint, told: httpx.Response) -> Answer:
    """The data of an answer; Dagster sends a valid body with HTTP 500 too."""
    if told.status_code in (401, 403):
        raise DagsterRefused(
            f"{at.address} refuses this token: HTTP {told.status_code}.",
            "Put a valid one into the connection's password.",
        )
    try:
        body = told.json()
        data, errors = body.get("data"), body.get("errors")
    except (ValueError, AttributeError):
        raise ReplyLost(
            f"{at.address} answers HTTP {told.status_code} and no JSON.",
            "Is it Dagster's webserver, and what is in front of it?",
        ) from None
    if errors or data is None:
        raise DagsterRefused(f"{at.address} refuses: {graphql.why(body)}.", "Mend what it names.")
    return dict(data)


def run_in(data: Answer) -> Run:
    """The run that an answer tells of."""
    told = data["runOrError"]
    if told["__typename"] != "Run":
        raise DagsterRefused(f"Dagster knows no such run: {graphql.why(told)}.", "Was it deleted?")
    return graphql.run_of(told)


def latest_in(data: Answer, asset: str) -> float | None:
    """When an asset was materialized last, by an answer; seconds since 1970."""
    told = data["assetNodeOrError"]
    if told["__typename"] != "AssetNode":
        raise AssetUnknown(f"Dagster has no asset {asset}.", "Compare its catalog.")
    made = told["assetMaterializations"]
    return float(made[0]["timestamp"]) / 1000 if made else None
