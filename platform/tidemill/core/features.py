"""From rows to LightGBM's input matrix: feature function, vocabulary, codes."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import polars as pl

from tidemill.core.errors import FeatureSkew, SpecInvalid, TidemillError

Array = npt.NDArray[np.float64]
ColumnKind = Literal["category", "number"]

PROBE_ROWS = 16
"""Rows on which a feature function is called again, to check that it is row-wise."""

_CATEGORIES = (pl.String, pl.Categorical, pl.Enum)


@dataclass(frozen=True)
class Column:
    """One feature: its name and how LightGBM treats it."""

    name: str
    kind: ColumnKind


@dataclass(frozen=True)
class FeatureFunction:
    """A user's row-wise function of a polars frame.

    `reference` is `module:function`, `source_digest` the sha256 of the module file's bytes.
    """

    reference: str
    source_digest: str
    function: Callable[[pl.DataFrame], Any]


@dataclass(frozen=True)
class Vocabulary:
    """The known values of each category feature, in the order of their codes. Append-only."""

    values: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def size(self) -> int:
        """The number of known values of all features."""
        return sum(len(values) for values in self.values.values())


def compute_features(
    rows: pl.DataFrame, fields: Sequence[str], function: FeatureFunction | None
) -> pl.DataFrame:
    """One row of features per row. Without a function, these are the declared fields.

    The function is passed the declared fields only: neither the label nor tidemill's internal
    columns. Raises `SpecInvalid` if it does not return a polars frame of the same height with
    usable columns.
    """
    declared = rows[list(fields)]  # `select` would wait for a thread of polars' pool
    if function is None:
        return declared
    try:
        features = function.function(declared)
    except TidemillError:  # the function itself could not be loaded
        raise
    except Exception as error:
        raise _invalid_function(function, f"fails with {type(error).__name__}: {error}") from error
    if not isinstance(features, pl.DataFrame):
        raise _invalid_function(
            function, f"returns a {type(features).__name__} instead of a polars DataFrame"
        )
    if features.height != rows.height:
        raise _invalid_function(function, f"returns {features.height} rows for {rows.height}")
    if not features.width:
        raise _invalid_function(function, "returns no columns")
    for name, dtype in features.schema.items():
        if _column_kind(dtype) is None:
            raise _invalid_function(function, f"returns column {name!r} of type {dtype}")
    return features


def check_row_wise(
    rows: pl.DataFrame, fields: Sequence[str], function: FeatureFunction | None
) -> None:
    """Call the function on some rows in another order, and on one row alone: the features must
    not change.

    A mean, a shift or a count over the frame differs, and would differ when one row is served.
    Raises `SpecInvalid`.
    """
    if function is None or rows.height == 0:
        return
    batch_features = compute_features(rows, fields, function)
    indices = sorted({round(i) for i in np.linspace(rows.height - 1, 0, PROBE_ROWS)}, reverse=True)
    reordered = compute_features(rows[indices], fields, function)
    single_row = compute_features(rows[indices[:1]], fields, function)
    if reordered.columns != batch_features.columns or single_row.columns != batch_features.columns:
        raise _invalid_function(function, "returns other columns for other rows")
    for name in batch_features.columns:
        expected = batch_features[name][indices].to_list()
        if not _equal_values(expected, reordered[name].to_list()) or not _equal_values(
            expected[:1], single_row[name].to_list()
        ):
            raise _invalid_function(
                function, f"is not row-wise: {name!r} of a row depends on other rows"
            )


def feature_columns(features: pl.DataFrame) -> tuple[Column, ...]:
    """The feature columns of a frame from `compute_features`, in its order."""
    kinds = {name: _column_kind(dtype) for name, dtype in features.schema.items()}
    return tuple(Column(name, kind) for name, kind in kinds.items() if kind is not None)


def extend_vocabulary(
    vocabulary: Vocabulary, features: pl.DataFrame, columns: Sequence[Column]
) -> Vocabulary:
    """The vocabulary with the new values of these rows, sorted, after the known ones."""
    values = dict(vocabulary.values)
    for column in columns:
        if column.kind == "category":
            existing = values.get(column.name, ())
            observed = _as_strings(_column(features, column)).drop_nulls().unique().to_list()
            values[column.name] = (*existing, *sorted(set(observed).difference(existing)))
    return Vocabulary(values)


def matrix(features: pl.DataFrame, columns: Sequence[Column], vocabulary: Vocabulary) -> Array:
    """float64[rows, columns] in C order: numbers, codes of categories, NaN for null and unknown.

    Raises `FeatureSkew` if a column is missing or of another kind.
    """
    out = np.full((features.height, len(columns)), np.nan)
    for index, column in enumerate(columns):
        series = _column(features, column)
        if series.dtype == pl.Null:
            continue
        if column.kind == "category":
            enum = pl.Enum(vocabulary.values.get(column.name, ()))
            series = _as_strings(series).cast(enum, strict=False).to_physical()
        out[:, index] = series.cast(pl.Float64).to_numpy()  # null becomes NaN
    return out


def _column(features: pl.DataFrame, column: Column) -> pl.Series:
    kind = _column_kind(features.schema[column.name]) if column.name in features.schema else None
    if kind == column.kind or features.schema.get(column.name) == pl.Null:
        return features[column.name]
    actual = "missing" if kind is None else f"a {kind}"
    raise FeatureSkew(
        f"Feature {column.name!r} was a {column.kind} when the model was trained; now it is "
        f"{actual}.",
        "Restore the previous feature function, or define a model with another name.",
    )


def _as_strings(column: pl.Series) -> pl.Series:
    return column.cast(pl.String)


def _column_kind(dtype: pl.DataType) -> ColumnKind | None:
    if isinstance(dtype, _CATEGORIES):
        return "category"
    usable = dtype.is_numeric() or dtype in (pl.Boolean, pl.Null)
    return "number" if usable else None


def _equal_values(one: Sequence[Any], other: Sequence[Any]) -> bool:
    """Equal values; NaN equals NaN, and sums may differ by rounding."""
    if len(one) != len(other):
        return False
    for a, b in zip(one, other, strict=True):
        if isinstance(a, float) and isinstance(b, float):
            if not np.isclose(a, b, rtol=1e-9, atol=0, equal_nan=True):
                return False
        elif a != b:
            return False
    return True


def _invalid_function(function: FeatureFunction, problem: str) -> SpecInvalid:
    return SpecInvalid(
        f"The feature function {function.reference} {problem}.",
        "It must take a polars frame of the declared fields and return one row of text, number or "
        "boolean columns per row, computed from that row alone.",
    )
