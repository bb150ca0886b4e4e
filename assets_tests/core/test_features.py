"""Features: what a feature function may do, and the matrix that LightGBM is passed."""

from collections.abc import Callable
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidemill.adapters.feature_function import load_feature_function
from tidemill.core.errors import FeatureSkew, SpecInvalid
from tidemill.core.features import (
    Column,
    FeatureFunction,
    Vocabulary,
    check_row_wise,
    compute_features,
    extend_vocabulary,
    feature_columns,
    matrix,
)

ROWS = pl.DataFrame(
    {
        "_offset": [0, 1, 2, 3],
        "place": ["b", None, "a", "b"],
        "size": [1.5, None, 3.0, 4.0],
        "wet": [True, False, None, True],
        "late": [1.0, 0.0, 1.0, 0.0],
    }
)
FIELDS = ["place", "size", "wet"]


def function(run: Callable[[pl.DataFrame], Any]) -> FeatureFunction:
    return FeatureFunction("shop:features", "0" * 64, run)


def test_numbers_pass_and_categories_become_codes_and_null_is_nan() -> None:
    features = compute_features(ROWS, FIELDS, None)
    columns = feature_columns(features)
    assert columns == (
        Column("place", "category"),
        Column("size", "number"),
        Column("wet", "number"),
    )
    vocabulary = extend_vocabulary(Vocabulary(), features, columns)
    assert vocabulary.values == {"place": ("a", "b")}
    data = matrix(features, columns, vocabulary)
    expected = [[1, 1.5, 1], [np.nan, np.nan, 0], [0, 3, np.nan], [1, 4, 1]]
    np.testing.assert_array_equal(data, expected)
    assert data.flags.c_contiguous
    assert data.dtype == np.float64


category_frames = st.lists(st.one_of(st.none(), st.text(max_size=3)), max_size=10).map(
    lambda values: pl.DataFrame({"place": pl.Series(values, dtype=pl.String)})
)
PLACE = (Column("place", "category"),)


@given(st.lists(category_frames, max_size=4))
def test_a_vocabulary_only_grows_and_known_values_keep_their_codes(
    batches: list[pl.DataFrame],
) -> None:
    vocabulary = Vocabulary({"place": ()})
    for batch in batches:
        grown = extend_vocabulary(vocabulary, batch, PLACE)
        existing = vocabulary.values["place"]
        assert grown.values["place"][: len(existing)] == existing
        assert len(set(grown.values["place"])) == len(grown.values["place"])
        codes = matrix(batch, PLACE, grown)[:, 0].tolist()
        decoded = [None if np.isnan(code) else grown.values["place"][int(code)] for code in codes]
        assert decoded == batch["place"].to_list()
        assert extend_vocabulary(grown, batch.reverse(), PLACE) == grown
        vocabulary = grown


def test_an_unknown_category_is_missing() -> None:
    assert np.isnan(matrix(ROWS, PLACE, Vocabulary({"place": ("a",)}))[0, 0])
    assert np.isnan(matrix(ROWS, PLACE, Vocabulary())).all()


def test_a_function_sees_neither_label_nor_columns_of_tidemill() -> None:
    seen: list[list[str]] = []
    compute_features(ROWS, FIELDS, function(lambda frame: (seen.append(frame.columns), frame)[1]))
    assert seen == [FIELDS]


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (lambda frame: frame.to_dicts(), "returns a list instead of a polars DataFrame"),
        (lambda frame: frame.head(1), "returns 1 rows for 4"),
        (lambda frame: frame.select([]).with_columns(), "rows for 4"),
        (lambda frame: frame.select(pl.struct(pl.all()).alias("s")), "column 's' of type Struct"),
        (lambda frame: frame["nothing"], "fails with ColumnNotFoundError"),
    ],
)
def test_an_invalid_function_is_named(run: Callable[[pl.DataFrame], Any], message: str) -> None:
    with pytest.raises(SpecInvalid, match=r"shop:features .*" + message):
        compute_features(ROWS, FIELDS, function(run))


@pytest.mark.parametrize(
    "run",
    [
        lambda frame: frame.with_columns(pl.col("size") - pl.col("size").mean()),
        lambda frame: frame.with_columns(pl.col("size").shift(1)),
        lambda frame: frame.with_columns(rank=pl.col("size").rank()),
        lambda frame: frame.with_columns(n=pl.len()),
        lambda frame: frame.to_dummies("place"),
    ],
)
def test_a_function_that_looks_at_other_rows_is_refused(
    run: Callable[[pl.DataFrame], Any],
) -> None:
    with pytest.raises(SpecInvalid, match="row"):
        check_row_wise(ROWS, FIELDS, function(run))


def test_a_row_wise_function_passes() -> None:
    run = function(
        lambda frame: frame.select(
            half=pl.col("size") / 2, where=pl.col("place").str.to_uppercase(), wet="wet"
        )
    )
    check_row_wise(ROWS, FIELDS, run)
    assert [c.kind for c in feature_columns(compute_features(ROWS, FIELDS, run))] == [
        "number",
        "category",
        "number",
    ]


@pytest.mark.parametrize("features", [ROWS.drop("place"), ROWS.with_columns(place=pl.lit(1.0))])
def test_a_column_that_is_gone_or_of_another_kind_is_skew(features: pl.DataFrame) -> None:
    with pytest.raises(FeatureSkew, match="'place' was a category"):
        matrix(features, PLACE, Vocabulary())


def test_a_function_is_loaded_with_the_hash_of_its_source(
    tmp_path: "Any", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "tidal_features.py").write_text("def f(frame):\n    return frame\n")
    loaded = load_feature_function("tidal_features:f")
    assert loaded.reference == "tidal_features:f"
    assert len(loaded.source_digest) == 64
    assert compute_features(ROWS, FIELDS, loaded).columns == FIELDS
    with pytest.raises(SpecInvalid, match="has no function 'g'"):
        load_feature_function("tidal_features:g")
    with pytest.raises(SpecInvalid, match="cannot be imported"):
        load_feature_function("tidal_nowhere:f")
