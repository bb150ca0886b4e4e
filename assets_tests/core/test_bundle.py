"""A bundle predicts raw rows as in training, or it is refused."""

import json
import re
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import polars as pl
import pytest

from tidemill.core import canonical, learner
from tidemill.core.bundle import Model, encode
from tidemill.core.errors import BundleInvalid, DigestMismatch, FeatureSkew, FormatUnsupported
from tidemill.core.features import FeatureFunction
from tidemill.core.golden_rows import MAX_GOLDEN_ROWS, golden_row_indices
from tidemill.core.spec import ModelSpec


def spec(**overrides: Any) -> ModelSpec:
    return ModelSpec.create(
        "m",
        {
            "topic": "t",
            "fields": {"size": "number", "place": "category"},
            "label": "late",
            "windows": {"start": "2013-02-01"},
            "learner": {
                "retrain": {"num_iterations": 8, "learning_rate": 0.1, "min_data_in_leaf": 20}
            },
        }
        | overrides,
    )


def rows(count: int = 400) -> pl.DataFrame:
    draw = np.random.default_rng(0)
    size = draw.normal(size=count)
    return pl.DataFrame(
        {
            "_partition": pl.Series([0] * count, dtype=pl.Int32),
            "_offset": range(count),
            "_timestamp": range(count),
            "size": [None if i % 50 == 7 else float(s) for i, s in enumerate(size)],
            "place": [f"p{i % 5}" for i in range(count)],
            "late": (size + draw.normal(size=count) > 0).astype(np.float64),
        }
    )


def make_bundle(
    function: FeatureFunction | None = None, frame: pl.DataFrame | None = None
) -> bytes:
    frame = rows() if frame is None else frame
    return learner.fit(
        spec(features=function.reference if function else None),
        frame,
        parent=None,
        continue_=False,
        golden=frame,
        window="2013-02-01",
        seed=1,
        num_threads=1,
        function=function,
    )


def load(bundle: bytes, function: FeatureFunction | None = None) -> Model:
    return Model.load(bundle, canonical.digest(bundle), function)


def with_header(bundle: bytes, change: Callable[[dict[str, Any]], None]) -> bytes:
    header_line, _, text = bundle.partition(b"\n")
    header = json.loads(header_line)
    change(header)
    return json.dumps(header).encode() + b"\n" + text


def function(run: Callable[[pl.DataFrame], Any], source: str = "a" * 64) -> FeatureFunction:
    return FeatureFunction("shop:features", source, run)


def test_a_bundle_describes_itself_and_reproduces_its_golden_rows() -> None:
    bundle = make_bundle()
    model = load(bundle)
    assert bundle == make_bundle()
    assert model.digest == canonical.digest(bundle)
    assert (model.num_iterations, model.window) == (8, "2013-02-01")
    assert [name for name, _ in model.header.fields] == ["place", "size"]
    assert model.header.vocabulary == {"place": ("p0", "p1", "p2", "p3", "p4")}
    model.validate()


def test_golden_rows_are_the_answers_to_raw_rows() -> None:
    model, frame = load(make_bundle()), rows()
    all_predictions = model.predict(frame)
    raw = [golden.row for golden in model.header.golden]
    golden_predictions = [golden.prediction for golden in model.header.golden]
    indices = golden_row_indices(frame.select("size", "place"))
    assert [msgspec.json.decode(row)["size"] for row in raw] == frame["size"][indices].to_list()
    assert golden_predictions == all_predictions[indices].tolist()
    assert model.predict(model.decoder().rows(raw)).tolist() == golden_predictions


def test_golden_rows_are_spread_and_hold_rows_with_nulls() -> None:
    frame = rows().select("size", "place")
    indices = golden_row_indices(frame)
    assert len(indices) == MAX_GOLDEN_ROWS
    assert {0, 399} <= set(indices)
    assert frame[indices]["size"].null_count() == 4
    assert golden_row_indices(frame.head(3)) == [0, 1, 2]
    assert golden_row_indices(frame.clear()) == []


def test_nothing_is_parsed_before_the_digest_is_right() -> None:
    bundle = make_bundle()
    for damaged in (b"", bundle[:-1], bundle + b" ", b"x" + bundle[1:]):
        with pytest.raises(DigestMismatch):
            Model.load(damaged, canonical.digest(bundle), None)


def test_a_wrong_golden_answer_is_skew_and_is_named() -> None:
    def change(header: dict[str, Any]) -> None:
        header["golden"][5]["prediction"] *= 1 + 1e-8

    model = load(with_header(make_bundle(), change))
    with pytest.raises(FeatureSkew, match="for its golden row 5"):
        model.validate()


def test_a_difference_by_rounding_is_none() -> None:
    def change(header: dict[str, Any]) -> None:
        header["golden"][5]["prediction"] *= 1 + 1e-11

    load(with_header(make_bundle(), change)).validate()


@pytest.mark.parametrize(
    "change",
    [
        lambda header: header["columns"].pop(),
        lambda header: header.update(classes=["a", "b"]),
        lambda header: header.pop("golden"),
        lambda header: header.update(num_iterations="many"),
    ],
)
def test_parts_that_do_not_fit_together_are_refused(
    change: Callable[[dict[str, Any]], None],
) -> None:
    with pytest.raises(BundleInvalid):
        load(with_header(make_bundle(), change))


def test_another_format_is_refused() -> None:
    with pytest.raises(FormatUnsupported, match="has format 2"):
        load(with_header(make_bundle(), lambda header: header.update(format=2)))


@pytest.mark.parametrize("damaged", [b"", b"{}", b"\xff\n\xff", b"{}\ntree", b"\n"])
def test_bytes_that_are_no_bundle_are_refused(damaged: bytes) -> None:
    with pytest.raises(BundleInvalid):
        load(damaged)


def test_another_source_of_the_feature_function_is_skew() -> None:
    original = function(lambda frame: frame)
    bundle = make_bundle(original)
    load(bundle, original).validate()
    for other in (function(lambda frame: frame, "b" * 64), None):
        with pytest.raises(FeatureSkew, match="was trained with the feature function shop:feat"):
            load(bundle, other)
    with pytest.raises(FeatureSkew):
        load(make_bundle(), original)


def test_a_function_that_reads_something_else_when_serving_is_skew() -> None:
    shift = 0.0
    moved = function(lambda frame: frame.with_columns(pl.col("size") + shift))
    model = load(make_bundle(moved), moved)
    model.validate()
    shift = 1.0
    with pytest.raises(FeatureSkew, match="golden row"):
        model.validate()


def test_a_model_whose_answers_are_not_finite_is_never_made() -> None:
    frame, regression = rows(), spec(objective="regression")
    valid_model = load(
        learner.fit(
            regression,
            frame,
            parent=None,
            continue_=False,
            golden=frame,
            window=None,
            seed=1,
            num_threads=1,
        )
    )

    def with_huge_values(line: re.Match[str]) -> str:
        return "leaf_value=" + " ".join(["1.7e308"] * len(line[1].split()))

    text = re.sub(r"leaf_value=(.*)", with_huge_values, valid_model.text)
    text = re.sub(
        r"tree_sizes=.*\n", "", text
    )  # without them, LightGBM parses the trees in sequence
    with pytest.raises(BundleInvalid, match="not finite"):
        encode(
            regression, text, valid_model.header.columns, valid_model.vocabulary, None, frame, None
        )
