"""Errors of requests: their type, message and fields, in the format of each protocol."""

from typing import Any

import pytest

from support.serving.prediction_server import ROW, PredictionServer


def error_of(response: Any, status: int) -> dict[str, Any]:
    assert response.status_code == status, response.text
    error: dict[str, Any] = response.json()["error"]
    assert error["message"].endswith(".")
    assert error["remedy"]
    return error


def test_every_wrong_field_of_every_row_is_named(server: PredictionServer) -> None:
    rows = [{**ROW, "price": "1", "age": 3}, {"country": 1.5}, "row", ROW]
    error = error_of(server.predict(*rows), 400)  # type: ignore[arg-type]
    assert error["type"] == "RowInvalid"
    assert error["fields"] == [
        {"row": 0, "field": "price", "problem": "expected number, got text"},
        {"row": 0, "field": "age", "problem": "unknown field"},
        {"row": 1, "field": "country", "problem": "expected text, got number"},
        {"row": 1, "field": "price", "problem": "missing"},
        {"row": 2, "field": None, "problem": "not a JSON object"},
    ]


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ('{"country": "de", "price": true}', "expected number, got boolean"),
        ('{"country": ["de"], "price": 1}', "expected text, got array"),
        ('{"country": 1.5, "price": 1}', "expected text, got number"),
        ('{"country": "de", "price": {"a": 1}}', "expected number, got object"),
    ],
)
def test_a_value_of_the_wrong_type_is_named(
    server: PredictionServer, row: str, problem: str
) -> None:
    url = f"{server.url}/models/{server.harness.model}/predict"
    error = error_of(server.session.post(url, data=f'{{"rows": [{row}]}}'.encode()), 400)
    assert [field_error["problem"] for field_error in error.get("fields", [])] == [problem]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b'{"rows": [{"price": NaN}]}', "not JSON"),
        (b"\xff", "not JSON"),
        (b'{"rows": [{"country": "\\ud800"}]}', "not JSON"),
        (b"[" * 5_000, "not JSON"),
        (b"[]", "not a JSON object"),
        (b"{}", "no `rows`"),
        (b'{"rows": {}}', "not a list"),
        (b'{"rows": []}', "no row"),
        (b'{"rows": [{}], "more": 1}', "unknown key 'more'"),
        (b'{"rows": [{}], "id": 1}', "`id`"),
    ],
)
def test_a_malformed_body_is_named(server: PredictionServer, body: bytes, message: str) -> None:
    url = f"{server.url}/models/{server.harness.model}/predict"
    error = error_of(server.session.post(url, data=body), 400)
    assert error["type"] == "RequestInvalid"
    assert message in error["message"]


def test_too_many_rows_and_too_many_bytes_are_refused(server: PredictionServer) -> None:
    error = error_of(server.predict(*[ROW] * 51), 400)
    assert error["type"] == "TooManyRows"
    assert "51 rows" in error["message"]
    large_row = {**ROW, "country": "x" * 20_000}
    assert "20000 bytes" in error_of(server.predict(large_row), 413)["message"]


def test_an_unknown_model_path_or_method_is_named(server: PredictionServer) -> None:
    body = {"rows": [ROW]}
    assert error_of(server.post("/models/unknown/predict", body), 404)["type"] == "UnknownModel"
    assert error_of(server.get("/nowhere"), 404)["type"] == "NoSuchPath"
    response = server.get(f"/models/{server.harness.model}/predict")
    assert error_of(response, 405)["type"] == "MethodNotAllowed"
    assert response.headers["allow"] == "POST"
    response = server.post("/invocations?model=unknown", {"inputs": [ROW]})
    assert (response.status_code, response.json()["error_code"]) == (404, "BAD_REQUEST")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"dataframe_split": {"columns": ["price"], "data": [[1, 2]]}}, "row 0 is not a list of 1"),
        ({"dataframe_split": {"columns": ["price"]}}, "not have lists `columns` and `data`"),
        ({"dataframe_split": {"columns": ["a", "a"], "data": [[1, 2]]}}, "not distinct names"),
        ({"dataframe_records": [ROW], "inputs": [ROW]}, "exactly one input format"),
        ({"rows": [ROW]}, "its keys: 'rows'"),
        ({"inputs": {"price": [1, 2], "country": ["de"]}}, "different lengths"),
        ({"inputs": [[1, 2]]}, "not a JSON object"),
        ({"inputs": 5}, "not a list"),
        ({"dataframe_records": [{"price": 1}]}, "'country': missing"),
        ({"inputs": [ROW], "params": {"a": 1}}, "not support `params`"),
    ],
)
def test_errors_are_described_to_mlflow_clients(
    server: PredictionServer, body: dict[str, Any], message: str
) -> None:
    response = server.post("/invocations", body)
    assert response.status_code == 400
    assert response.json()["error_code"] == "BAD_REQUEST"
    assert message in response.json()["message"]


def tensor(name: str, datatype: str, *data: Any, shape: list[int] | None = None) -> dict[str, Any]:
    shape = [len(data)] if shape is None else shape
    return {"name": name, "datatype": datatype, "shape": shape, "data": data}


COUNTRY, PRICE = tensor("country", "BYTES", "de"), tensor("price", "FP64", 1.0)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({}, "missing required field `inputs`"),
        ({"inputs": []}, "no row"),
        ({"inputs": [COUNTRY]}, "'price': missing"),
        ({"inputs": [COUNTRY, PRICE, tensor("age", "INT8", 1)]}, "'age': unknown field"),
        ({"inputs": [COUNTRY, tensor("price", "BYTES", "1")]}, "'price' has datatype 'BYTES'"),
        ({"inputs": [COUNTRY, tensor("price", "FP64", "1")]}, "expected number, got text"),
        ({"inputs": [COUNTRY, PRICE, PRICE]}, "given twice"),
        ({"inputs": [COUNTRY, tensor("price", "FP64", 1, shape=[2])]}, "not match its shape"),
        ({"inputs": [COUNTRY, tensor("price", "FP64", 1, 2)]}, "numbers of rows"),
        ({"inputs": [COUNTRY, PRICE], "outputs": [{"name": "margin"}]}, "no output 'margin'"),
    ],
)
def test_errors_are_described_to_open_inference_clients(
    server: PredictionServer, body: dict[str, Any], message: str
) -> None:
    response = server.post(f"/v2/models/{server.harness.model}/infer", body)
    assert response.status_code == 400
    assert message in response.json()["error"]
