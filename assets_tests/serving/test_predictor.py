"""No skew: the server's predictions equal those of the evaluation, bit for bit."""

import json
from pathlib import Path
from typing import Any

import pytest

from serving import small_models
from tidemill.adapters.feature_function import load_feature_function
from tidemill.core import canonical
from tidemill.core.bundle import Model
from tidemill.core.features import FeatureFunction
from tidemill.core.spec import ModelSpec
from tidemill.serving.predictor import Predictor
from tidemill.serving.schemas import RequestSchema

UNUSUAL_ROWS: list[dict[str, Any]] = [
    {"size": 1, "place": "nowhere", "open": None},
    {"size": -1.5e300, "place": 3, "open": True},
    {"size": None, "place": True, "open": False},
    {"size": None, "place": 3.0, "open": False},
    {"size": 2**60, "place": "", "open": None},
    {"size": 0.1, "place": "p1\u0000é😀"},
]
"""Unseen values, and values of other JSON types."""


def load_model(spec: ModelSpec, function: FeatureFunction | None = None) -> Model:
    data = small_models.bundle(spec, function=function)
    return Model.load(data, canonical.digest(data), function)


def assert_predictions_agree(model: Model, spec: ModelSpec) -> None:
    """Assert that single rows, all rows at once, and `Model.predict` give the same bits."""
    fields = list(spec.fields)
    raw_rows = [*small_models.rows().select(fields).to_dicts(), *UNUSUAL_ROWS]
    schema = RequestSchema("m", spec.fields, len(raw_rows))
    predictor = Predictor(model, schema)
    rows = schema.convert_rows(raw_rows)
    raw = [json.dumps(row).replace("3.0", "3").encode() for row in raw_rows]
    expected = model.predict(model.decoder().rows(raw))
    assert [predictor.predict_row(row) for row in rows] == expected.tolist()
    assert predictor.predict_matrix(predictor.matrix(rows)) == expected.tolist()


def test_a_binary_model(tmp_path: Path) -> None:
    spec = small_models.spec()
    assert_predictions_agree(load_model(spec), spec)


def test_a_regression() -> None:
    spec = small_models.spec(objective="regression")
    assert_predictions_agree(load_model(spec), spec)


def test_several_classes() -> None:
    spec = small_models.spec(objective="multiclass", classes=["a", "b", "c"], label="kind")
    assert_predictions_agree(load_model(spec), spec)


@pytest.fixture
def function(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FeatureFunction:
    """A feature function whose columns differ from the fields."""
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "served_features.py").write_text(
        "import polars as pl\n"
        "def f(frame):\n"
        "    return frame.select(twice=pl.col('size') * 2, where=pl.col('place') + '!')\n"
    )
    return load_feature_function("served_features:f")


def test_a_feature_function(function: FeatureFunction) -> None:
    spec = small_models.spec(features=function.reference)
    assert_predictions_agree(load_model(spec, function), spec)


def test_fields_added_to_defs_yaml_are_ignored_and_removed_fields_are_missing() -> None:
    model = load_model(small_models.spec())
    fields = small_models.spec(
        fields={"size": "number", "place": "category", "brand": "category"}
    ).fields
    schema = RequestSchema("m", fields, 10)
    predictor = Predictor(model, schema)
    row = schema.convert_rows([{"size": 1, "place": "p1", "brand": "new"}])[0]
    expected = model.predict(model.decoder().rows([b'{"size": 1, "place": "p1", "open": null}']))
    assert predictor.predict_row(row) == expected[0]


@pytest.mark.parametrize("with_function", [False, True])
def test_a_field_whose_type_has_changed_is_missing_to_the_model(
    with_function: bool, function: FeatureFunction
) -> None:
    """As when a model of an old lineage is evaluated on rows of a new one."""
    if with_function:
        model = load_model(small_models.spec(features=function.reference), function)
    else:
        model = load_model(small_models.spec())
    fields = small_models.spec(fields=small_models.FIELDS | {"size": "category"}).fields
    schema = RequestSchema("m", fields, 10)
    predictor = Predictor(model, schema)
    row = schema.convert_rows([{"size": "large", "place": "p1", "open": True}])[0]
    expected = model.predict(model.decoder().rows([b'{"size": null, "place": "p1", "open": true}']))
    assert predictor.predict_row(row) == expected[0]
