"""Every protocol gives the answer that the model gives offline, and names the model."""

import json
from typing import Any

import httpx
import pytest
from open_inference.openapi.client import OpenInferenceClient
from open_inference.openapi.types import InferenceRequest, RequestInput, TensorData

from model_harness import events
from prediction_server import ROW, PredictionServer, predict_offline
from tidemill.cycle.context import ModelContext

ROWS: list[dict[str, Any]] = [
    ROW,
    {"country": "xx", "price": 1, "visits": None},
    {"country": None, "price": None},
    {"country": "jp", "price": 99.25, "visits": 0},
]
NAMES = ("country", "price", "visits")


def dataframe_split() -> dict[str, Any]:
    data = [[row.get(name) for name in NAMES] for row in ROWS]
    return {"dataframe_split": {"columns": list(NAMES), "data": data}}


def columns() -> dict[str, list[Any]]:
    return {name: [row.get(name) for row in ROWS] for name in NAMES}


def test_typed_rows_are_answered_in_their_order(
    server: PredictionServer, ctx: ModelContext
) -> None:
    told = server.post(f"/models/{ctx.model}/predict", {"rows": ROWS, "id": "mine"})
    head = ctx.chain().head
    assert head is not None
    assert told.json() == {
        "model": ctx.model,
        "digest": head.entry.digest,
        "version": head.entry.seq,
        "predictions": predict_offline(ctx, head.entry.digest, ROWS),
        "id": "mine",
    }


def test_a_batch_is_answered_as_its_rows_are(server: PredictionServer, ctx: ModelContext) -> None:
    rows = [ROWS[at % len(ROWS)] | {"price": at} for at in range(50)]
    told = server.predict(*rows).json()
    assert told["predictions"] == predict_offline(ctx, told["digest"], rows)
    alone = [server.predict(row).json()["predictions"][0] for row in rows]
    assert told["predictions"] == alone


@pytest.mark.parametrize(
    "body",
    [
        dataframe_split(),
        {"dataframe_records": ROWS},
        {"inputs": ROWS},
        {"instances": ROWS, "params": None},
        {"inputs": columns()},
    ],
    ids=["split", "records", "inputs", "instances", "columns"],
)
def test_mlflow_clients_are_answered(
    server: PredictionServer, ctx: ModelContext, body: dict[str, Any]
) -> None:
    told = server.post("/invocations", body).json()
    assert told["predictions"] == predict_offline(ctx, told["digest"], ROWS)
    assert told["version"] == server.model_status()["version"]


def test_the_public_client_of_the_open_inference_protocol_is_answered(
    server: PredictionServer, ctx: ModelContext
) -> None:
    with httpx.Client() as http:
        _exercise_client(OpenInferenceClient(base_url=server.url, httpx_client=http), server, ctx)


def _exercise_client(
    client: OpenInferenceClient, server: PredictionServer, ctx: ModelContext
) -> None:
    assert client.check_server_liveness() is None
    assert client.check_server_readiness() is None
    assert client.read_server_metadata().name == "tidemill"
    assert client.check_model_readiness(ctx.model) is None
    metadata = client.read_model_metadata(ctx.model)
    assert [(each.name, each.datatype) for each in metadata.inputs] == [
        ("country", "BYTES"),
        ("price", "FP64"),
        ("visits", "FP64"),
    ]
    rows = [
        {"country": "de", "price": 1.5, "visits": 2.0},
        {"country": "us", "price": 70.0, "visits": 0.0},
    ]
    inputs = [
        RequestInput(
            name=each.name,
            shape=[2],
            datatype=each.datatype,
            data=TensorData(__root__=[row[each.name] for row in rows]),
        )
        for each in metadata.inputs
    ]
    response = client.model_infer(ctx.model, request=InferenceRequest(id="x", inputs=inputs))
    digest = response.parameters["digest"]
    assert response.outputs[0].data.__root__ == predict_offline(ctx, digest, rows)
    assert (response.id, response.model_version) == ("x", str(server.model_status()["version"]))


def test_a_tensor_may_have_a_column_and_integers_for_numbers(
    server: PredictionServer, ctx: ModelContext
) -> None:
    inputs = [
        {"name": "country", "shape": [2, 1], "datatype": "BYTES", "data": [["de"], [None]]},
        {"name": "price", "shape": [2], "datatype": "INT64", "data": [3, 4]},
    ]
    told = server.post(f"/v2/models/{ctx.model}/infer", {"inputs": inputs}).json()
    rows = [{"country": "de", "price": 3}, {"country": None, "price": 4}]
    assert told["outputs"][0]["data"] == predict_offline(ctx, told["parameters"]["digest"], rows)


def test_what_is_in_service_is_told(server: PredictionServer, ctx: ModelContext) -> None:
    told, head = server.model_status(), ctx.chain().head
    assert head is not None
    assert (told["digest"], told["version"], told["kind"]) == (
        head.entry.digest,
        head.entry.seq,
        "deploy",
    )
    assert told["as_of"] == head.entry.as_of == told["learned_window"]
    assert (told["stale"], told["from_local_copy"], told["last_failure"]) == (None, False, None)
    assert told == server.get(f"/models/{ctx.model}").json() | {"age_seconds": told["age_seconds"]}


def test_prometheus_is_told(server: PredictionServer, ctx: ModelContext) -> None:
    labels = {"model": ctx.model, "route": "predict", "status": "200"}
    server.predict(ROW)
    before = server.metric("tidemill_requests_total", **labels)
    server.predict(ROW)
    assert server.metric("tidemill_requests_total", **labels) == before + 1
    assert server.metric("tidemill_request_seconds_count", model=ctx.model) > before
    age = server.metric("tidemill_model_age_seconds", model=ctx.model)
    assert age == pytest.approx(server.model_status()["age_seconds"], abs=30)
    assert server.metric("tidemill_ledger_lag_entries", model=ctx.model) == 0


def test_rows_are_answered_as_training_saw_them(
    server: PredictionServer, ctx: ModelContext
) -> None:
    """Every event of a window, through the server one by one and through the judges' way."""
    rows = [json.loads(value) for _, value in events(5)]
    for row in rows:
        del row["bought"]
    told = [server.predict(row).json() for row in rows]
    assert [each["predictions"][0] for each in told] == predict_offline(
        ctx, told[0]["digest"], rows
    )
