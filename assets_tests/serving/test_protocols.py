"""Every protocol gives the answer that the model gives offline, and names the model."""

import json
from typing import Any

import httpx
import pytest
from open_inference.openapi.client import OpenInferenceClient
from open_inference.openapi.types import InferenceRequest, RequestInput, TensorData

from bench import events
from serving_hands import ROW, Serving, offline
from tidemill.cycle.mill import ModelContext

ROWS: list[dict[str, Any]] = [
    ROW,
    {"country": "xx", "price": 1, "visits": None},
    {"country": None, "price": None},
    {"country": "jp", "price": 99.25, "visits": 0},
]
NAMES = ("country", "price", "visits")


def split() -> dict[str, Any]:
    data = [[row.get(name) for name in NAMES] for row in ROWS]
    return {"dataframe_split": {"columns": list(NAMES), "data": data}}


def columns() -> dict[str, list[Any]]:
    return {name: [row.get(name) for row in ROWS] for name in NAMES}


def test_typed_rows_are_answered_in_their_order(server: Serving, mill: ModelContext) -> None:
    told = server.post(f"/models/{mill.model}/predict", {"rows": ROWS, "id": "mine"})
    head = mill.chain().head
    assert head is not None
    assert told.json() == {
        "model": mill.model,
        "digest": head.entry.digest,
        "version": head.entry.seq,
        "predictions": offline(mill, head.entry.digest, ROWS),
        "id": "mine",
    }


def test_a_batch_is_answered_as_its_rows_are(server: Serving, mill: ModelContext) -> None:
    rows = [ROWS[at % len(ROWS)] | {"price": at} for at in range(50)]
    told = server.predict(*rows).json()
    assert told["predictions"] == offline(mill, told["digest"], rows)
    alone = [server.predict(row).json()["predictions"][0] for row in rows]
    assert told["predictions"] == alone


@pytest.mark.parametrize(
    "body",
    [
        split(),
        {"dataframe_records": ROWS},
        {"inputs": ROWS},
        {"instances": ROWS, "params": None},
        {"inputs": columns()},
    ],
    ids=["split", "records", "inputs", "instances", "columns"],
)
def test_mlflow_clients_are_answered(server: Serving, mill: ModelContext, body: dict[str, Any]) -> None:
    told = server.post("/invocations", body).json()
    assert told["predictions"] == offline(mill, told["digest"], ROWS)
    assert told["version"] == server.model()["version"]


def test_the_public_client_of_the_open_inference_protocol_is_answered(
    server: Serving, mill: ModelContext
) -> None:
    with httpx.Client() as http:
        _ask_all(OpenInferenceClient(base_url=server.url, httpx_client=http), server, mill)


def _ask_all(client: OpenInferenceClient, server: Serving, mill: ModelContext) -> None:
    assert client.check_server_liveness() is None
    assert client.check_server_readiness() is None
    assert client.read_server_metadata().name == "tidemill"
    assert client.check_model_readiness(mill.model) is None
    about = client.read_model_metadata(mill.model)
    assert [(each.name, each.datatype) for each in about.inputs] == [
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
        for each in about.inputs
    ]
    told = client.model_infer(mill.model, request=InferenceRequest(id="x", inputs=inputs))
    digest = told.parameters["digest"]
    assert told.outputs[0].data.__root__ == offline(mill, digest, rows)
    assert (told.id, told.model_version) == ("x", str(server.model()["version"]))


def test_a_tensor_may_have_a_column_and_integers_for_numbers(server: Serving, mill: ModelContext) -> None:
    inputs = [
        {"name": "country", "shape": [2, 1], "datatype": "BYTES", "data": [["de"], [None]]},
        {"name": "price", "shape": [2], "datatype": "INT64", "data": [3, 4]},
    ]
    told = server.post(f"/v2/models/{mill.model}/infer", {"inputs": inputs}).json()
    rows = [{"country": "de", "price": 3}, {"country": None, "price": 4}]
    assert told["outputs"][0]["data"] == offline(mill, told["parameters"]["digest"], rows)


def test_what_is_in_service_is_told(server: Serving, mill: ModelContext) -> None:
    told, head = server.model(), mill.chain().head
    assert head is not None
    assert (told["digest"], told["version"], told["kind"]) == (
        head.entry.digest,
        head.entry.seq,
        "deploy",
    )
    assert told["as_of"] == head.entry.as_of == told["learned_window"]
    assert (told["stale"], told["from_local_copy"], told["last_failure"]) == (None, False, None)
    assert told == server.get(f"/models/{mill.model}").json() | {"age_seconds": told["age_seconds"]}


def test_prometheus_is_told(server: Serving, mill: ModelContext) -> None:
    labels = {"model": mill.model, "route": "predict", "status": "200"}
    server.predict(ROW)
    before = server.metric("tidemill_requests_total", **labels)
    server.predict(ROW)
    assert server.metric("tidemill_requests_total", **labels) == before + 1
    assert server.metric("tidemill_request_seconds_count", model=mill.model) > before
    age = server.metric("tidemill_model_age_seconds", model=mill.model)
    assert age == pytest.approx(server.model()["age_seconds"], abs=30)
    assert server.metric("tidemill_ledger_lag_entries", model=mill.model) == 0


def test_rows_are_answered_as_training_saw_them(server: Serving, mill: ModelContext) -> None:
    """Every event of a window, through the server one by one and through the judges' way."""
    rows = [json.loads(value) for _, value in events(5)]
    for row in rows:
        del row["bought"]
    told = [server.predict(row).json() for row in rows]
    assert [each["predictions"][0] for each in told] == offline(mill, told[0]["digest"], rows)
