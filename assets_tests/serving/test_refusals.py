"""A request that cannot be answered is told why: by fault, by field, in its protocol's words."""

from typing import Any

import pytest

from prediction_server import ROW, PredictionServer


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
def test_a_value_of_another_type_is_named(server: PredictionServer, row: str, problem: str) -> None:
    url = f"{server.url}/models/{server.harness.model}/predict"
    error = error_of(server.session.post(url, data=f'{{"rows": [{row}]}}'.encode()), 400)
    assert [each["problem"] for each in error.get("fields", [])] == [problem]


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b'{"rows": [{"price": NaN}]}', "not JSON"),
        (b"\xff", "not JSON"),
        (b'{"rows": [{"country": "\\ud800"}]}', "not JSON"),
        (b"[" * 5_000, "not JSON"),
        (b"[]", "no JSON object"),
        (b"{}", "no `rows`"),
        (b'{"rows": {}}', "no list"),
        (b'{"rows": []}', "no row"),
        (b'{"rows": [{}], "more": 1}', "unknown key 'more'"),
        (b'{"rows": [{}], "id": 1}', "`id`"),
    ],
)
def test_a_body_of_another_shape_is_named(server: PredictionServer, body: bytes, told: str) -> None:
    url = f"{server.url}/models/{server.harness.model}/predict"
    error = error_of(server.session.post(url, data=body), 400)
    assert error["type"] == "RequestInvalid"
    assert told in error["message"]


def test_too_many_rows_and_too_many_bytes_are_refused(server: PredictionServer) -> None:
    error = error_of(server.predict(*[ROW] * 51), 400)
    assert error["type"] == "TooManyRows"
    assert "51 rows" in error["message"]
    long = {**ROW, "country": "x" * 20_000}
    assert "20000 bytes" in error_of(server.predict(long), 413)["message"]


def test_an_unknown_model_path_or_method_is_named(server: PredictionServer) -> None:
    body = {"rows": [ROW]}
    assert error_of(server.post("/models/nobody/predict", body), 404)["type"] == "UnknownModel"
    assert error_of(server.get("/nowhere"), 404)["type"] == "NoSuchPath"
    told = server.get(f"/models/{server.harness.model}/predict")
    assert error_of(told, 405)["type"] == "MethodNotAllowed"
    assert told.headers["allow"] == "POST"
    told = server.post("/invocations?model=nobody", {"inputs": [ROW]})
    assert (told.status_code, told.json()["error_code"]) == (404, "BAD_REQUEST")


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({"dataframe_split": {"columns": ["price"], "data": [[1, 2]]}}, "row 0 is no list of 1"),
        ({"dataframe_split": {"columns": ["price"]}}, "no `columns` and `data`"),
        ({"dataframe_split": {"columns": ["a", "a"], "data": [[1, 2]]}}, "not different names"),
        ({"dataframe_records": [ROW], "inputs": [ROW]}, "of the forms"),
        ({"rows": [ROW]}, "'rows' of the forms"),
        ({"inputs": {"price": [1, 2], "country": ["de"]}}, "different lengths"),
        ({"inputs": [[1, 2]]}, "not a JSON object"),
        ({"inputs": 5}, "no list"),
        ({"dataframe_records": [{"price": 1}]}, "'country': missing"),
        ({"inputs": [ROW], "params": {"a": 1}}, "no `params`"),
    ],
)
def test_mlflow_clients_are_told_what_is_wrong(
    server: PredictionServer, body: dict[str, Any], told: str
) -> None:
    answer = server.post("/invocations", body)
    assert answer.status_code == 400
    assert answer.json()["error_code"] == "BAD_REQUEST"
    assert told in answer.json()["message"]


def tensor(name: str, datatype: str, *data: Any, shape: list[int] | None = None) -> dict[str, Any]:
    shape = [len(data)] if shape is None else shape
    return {"name": name, "datatype": datatype, "shape": shape, "data": data}


COUNTRY, PRICE = tensor("country", "BYTES", "de"), tensor("price", "FP64", 1.0)


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({}, "missing required field `inputs`"),
        ({"inputs": []}, "no row"),
        ({"inputs": [COUNTRY]}, "'price': missing"),
        ({"inputs": [COUNTRY, PRICE, tensor("age", "INT8", 1)]}, "'age': unknown field"),
        ({"inputs": [COUNTRY, tensor("price", "BYTES", "1")]}, "'price' is of datatype 'BYTES'"),
        ({"inputs": [COUNTRY, tensor("price", "FP64", "1")]}, "expected number, got text"),
        ({"inputs": [COUNTRY, PRICE, PRICE]}, "comes twice"),
        ({"inputs": [COUNTRY, tensor("price", "FP64", 1, shape=[2])]}, "not its shape"),
        ({"inputs": [COUNTRY, tensor("price", "FP64", 1, 2)]}, "numbers of rows"),
        ({"inputs": [COUNTRY, PRICE], "outputs": [{"name": "margin"}]}, "no output 'margin'"),
    ],
)
def test_open_inference_clients_are_told_what_is_wrong(
    server: PredictionServer, body: dict[str, Any], told: str
) -> None:
    answer = server.post(f"/v2/models/{server.harness.model}/infer", body)
    assert answer.status_code == 400
    assert told in answer.json()["error"]
