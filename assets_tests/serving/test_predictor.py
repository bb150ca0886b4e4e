"""No skew: what a server answers to a row is what the judges' way answers, bit for bit."""

import json
from pathlib import Path
from typing import Any

import pytest

import small_models
from tidemill.adapters.feature_function import load_feature_function
from tidemill.core import canonical
from tidemill.core.bundle import Model
from tidemill.core.errors import BundleUnfit
from tidemill.core.features import FeatureFunction
from tidemill.core.spec import ModelSpec
from tidemill.serving.predictor import Predictor
from tidemill.serving.schemas import Contract

STRANGE: list[dict[str, Any]] = [
    {"size": 1, "place": "nowhere", "open": None},
    {"size": -1.5e300, "place": 3, "open": True},
    {"size": None, "place": True, "open": False},
    {"size": None, "place": 3.0, "open": False},
    {"size": 2**60, "place": "", "open": None},
    {"size": 0.1, "place": "p1\u0000é😀"},
]
"""Values that were never seen, or come as another kind of JSON."""


def loaded(spec: ModelSpec, function: FeatureFunction | None = None) -> Model:
    data = small_models.bundle(spec, function=function)
    return Model.load(data, canonical.digest(data), function)


def answers_agree(model: Model, spec: ModelSpec) -> None:
    """One row alone, all rows at once, and `Model.predict` give the same bits."""
    fields = list(spec.fields)
    told = [*small_models.rows().select(fields).to_dicts(), *STRANGE]
    contract = Contract("m", spec.fields, len(told))
    predictor = Predictor(model, contract)
    rows = contract.rows(told)
    raw = [json.dumps(row).replace("3.0", "3").encode() for row in told]
    wanted = model.predict(model.decoder().rows(raw))
    assert [predictor.one(row) for row in rows] == wanted.tolist()
    assert predictor.many(predictor.matrix(rows)) == wanted.tolist()


def test_a_binary_model(tmp_path: Path) -> None:
    spec = small_models.spec()
    answers_agree(loaded(spec), spec)


def test_a_regression() -> None:
    spec = small_models.spec(objective="regression")
    answers_agree(loaded(spec), spec)


def test_several_classes() -> None:
    spec = small_models.spec(objective="multiclass", classes=["a", "b", "c"], label="kind")
    answers_agree(loaded(spec), spec)


def test_a_feature_function(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "served_features.py").write_text(
        "import polars as pl\n"
        "def f(frame):\n"
        "    return frame.select(twice=pl.col('size') * 2, where=pl.col('place') + '!')\n"
    )
    function = load_feature_function("served_features:f")
    spec = small_models.spec(features="served_features:f")
    answers_agree(loaded(spec, function), spec)


def test_fields_that_defs_yaml_gained_are_ignored_and_those_it_lost_are_missing() -> None:
    model = loaded(small_models.spec())
    fields = small_models.spec(
        fields={"size": "number", "place": "category", "brand": "category"}
    ).fields
    contract = Contract("m", fields, 10)
    predictor = Predictor(model, contract)
    row = contract.rows([{"size": 1, "place": "p1", "brand": "new"}])[0]
    wanted = model.predict(model.decoder().rows([b'{"size": 1, "place": "p1", "open": null}']))
    assert predictor.one(row) == wanted[0]


def test_a_field_of_another_type_than_in_training_is_refused() -> None:
    model = loaded(small_models.spec())
    fields = small_models.spec(fields=small_models.FIELDS | {"size": "category"}).fields
    with pytest.raises(BundleUnfit, match="'size' is a category"):
        Predictor(model, Contract("m", fields, 10))
