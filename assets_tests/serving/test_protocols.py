"""Every protocol returns the predictions that the model makes offline, and names the model."""

import json
from typing import Any

import httpx
import pytest
from open_inference.openapi.client import OpenInferenceClient
from open_inference.openapi.types import InferenceRequest, RequestInput, TensorData

from serving.ledger_fixture import predict_offline
from support.models.harness import events
from support.serving.prediction_server import ROW, PredictionServer
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
    response = server.post(f"/models/{ctx.model}/predict", {"rows": ROWS, "id": "mine"})
    head = ctx.chain().head
    assert head is not None
    assert response.json() == {
        "model": ctx.model,
        "digest": head.entry.digest,
        "version": head.entry.seq,
        "predictions": predict_offline(ctx, head.entry.digest, ROWS),
        "id": "mine",
    }


def test_a_batch_has_the_predictions_of_its_single_rows(
    server: PredictionServer, ctx: ModelContext
) -> None:
    rows = [ROWS[price % len(ROWS)] | {"price": price} for price in range(50)]
    response = server.predict(*rows).json()
    assert response["predictions"] == predict_offline(ctx, response["digest"], rows)
    single = [server.predict(row).json()["predictions"][0] for row in rows]
    assert response["predictions"] == single


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
    response = server.post("/invocations", body).json()
    assert response["predictions"] == predict_offline(ctx, response["digest"], ROWS)
    assert response["version"] == server.model_status()["version"]


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
    assert [(tensor.name, tensor.datatype) for tensor in metadata.inputs] == [
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
            name=tensor.name,
            shape=[2],
            datatype=tensor.datatype,
            data=TensorData(__root__=[row[tensor.name] for row in rows]),
        )
        for tensor in metadata.inputs
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
    response = server.post(f"/v2/models/{ctx.model}/infer", {"inputs": inputs}).json()
    rows = [{"country": "de", "price": 3}, {"country": None, "price": 4}]
    assert response["outputs"][0]["data"] == predict_offline(
        ctx, response["parameters"]["digest"], rows
    )


def test_the_status_reports_what_is_in_service(server: PredictionServer, ctx: ModelContext) -> None:
    status, head = server.model_status(), ctx.chain().head
    assert head is not None
    assert (status["digest"], status["version"], status["kind"]) == (
        head.entry.digest,
        head.entry.seq,
        "deploy",
    )
    assert status["as_of"] == head.entry.as_of == status["learned_window"]
    assert (status["stale"], status["from_local_copy"], status["last_failure"]) == (
        None,
        False,
        None,
    )
    age = {"age_seconds": status["age_seconds"]}
    assert status == server.get(f"/models/{ctx.model}").json() | age


def test_the_metrics_count_requests_and_describe_the_model(
    server: PredictionServer, ctx: ModelContext
) -> None:
    labels = {"model": ctx.model, "route": "predict", "status": "200"}
    server.predict(ROW)
    before = server.metric("tidemill_requests_total", **labels)
    server.predict(ROW)
    assert server.metric("tidemill_requests_total", **labels) == before + 1
    assert server.metric("tidemill_request_seconds_count", model=ctx.model) > before
    age = server.metric("tidemill_model_age_seconds", model=ctx.model)
    assert age == pytest.approx(server.model_status()["age_seconds"], abs=30)
    assert server.metric("tidemill_ledger_lag_entries", model=ctx.model) == 0


def test_rows_have_the_predictions_of_the_evaluation(
    server: PredictionServer, ctx: ModelContext
) -> None:
    """Every event of a window, sent one by one to the server, and evaluated offline."""
    rows = [json.loads(value) for _, value in events(5)]
    for row in rows:
        del row["bought"]
    responses = [server.predict(row).json() for row in rows]
    assert [response["predictions"][0] for response in responses] == predict_offline(
        ctx, responses[0]["digest"], rows
    )
