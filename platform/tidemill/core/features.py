"""From rows to the matrix that LightGBM sees: feature function, vocabulary, codes."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import polars as pl

from tidemill.core.errors import FeatureSkew, SpecInvalid, TidemillError

Array = npt.NDArray[np.float64]
Kind = Literal["category", "number"]

PROBED = 16
"""Rows on which a feature function is asked again, to see whether it works row by row."""

_CATEGORIES = (pl.String, pl.Categorical, pl.Enum)


@dataclass(frozen=True)
class Column:
    """One feature: its name and how LightGBM treats it."""

    name: str
    kind: Kind


@dataclass(frozen=True)
class FeatureFunction:
    """A user's row-wise function of a polars frame.

    `reference` is `module:function`, `source` the sha256 of the module file's bytes.
    """

    reference: str
    source: str
    function: Callable[[pl.DataFrame], Any]


@dataclass(frozen=True)
class Vocabulary:
    """For each category feature its known values, in the order of their codes. Only appended to."""

    values: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def size(self) -> int:
        """How many values are known, over all features."""
        return sum(len(known) for known in self.values.values())


def features(
    rows: pl.DataFrame, fields: Sequence[str], function: FeatureFunction | None
) -> pl.DataFrame:
    """One row of features for each row. Without a function they are the declared fields.

    The function sees the declared fields only: no label, no column of tidemill's own. Raises
    `SpecInvalid` where its answer is no polars frame of the same height with usable columns.
    """
    declared = rows[list(fields)]  # `select` would wait for a thread of polars' pool
    if function is None:
        return declared
    try:
        made = function.function(declared)
    except TidemillError:  # the function itself could not be loaded
        raise
    except Exception as error:
        raise _unfit(function, f"fails with {type(error).__name__}: {error}") from error
    if not isinstance(made, pl.DataFrame):
        raise _unfit(function, f"gives a {type(made).__name__} instead of a polars DataFrame")
    if made.height != rows.height:
        raise _unfit(function, f"gives {made.height} rows for {rows.height}")
    if not made.width:
        raise _unfit(function, "gives no columns")
    for name, dtype in made.schema.items():
        if _kind(dtype) is None:
            raise _unfit(function, f"gives column {name!r} of type {dtype}")
    return made


def check_row_wise(
    rows: pl.DataFrame, fields: Sequence[str], function: FeatureFunction | None
) -> None:
    """Ask the function about some rows alone and in another order: each must get the same answer.

    A mean, a shift or a count over the frame differs, and would differ when serving one row.
    Raises `SpecInvalid`.
    """
    if function is None or rows.height == 0:
        return
    whole = features(rows, fields, function)
    at = sorted({round(i) for i in np.linspace(rows.height - 1, 0, PROBED)}, reverse=True)
    again = features(rows[at], fields, function)
    alone = features(rows[at[:1]], fields, function)
    if again.columns != whole.columns or alone.columns != whole.columns:
        raise _unfit(function, "gives other columns for other rows")
    for name in whole.columns:
        told = whole[name][at].to_list()
        if not _same(told, again[name].to_list()) or not _same(told[:1], alone[name].to_list()):
            raise _unfit(function, f"is not row-wise: {name!r} of a row depends on other rows")


def columns_of(made: pl.DataFrame) -> tuple[Column, ...]:
    """The feature columns that a frame from `features` has, in its order."""
    kinds = {name: _kind(dtype) for name, dtype in made.schema.items()}
    return tuple(Column(name, kind) for name, kind in kinds.items() if kind is not None)


def extend(vocabulary: Vocabulary, made: pl.DataFrame, columns: Sequence[Column]) -> Vocabulary:
    """The vocabulary with the new values of these rows behind the known ones, sorted."""
    values = dict(vocabulary.values)
    for column in columns:
        if column.kind == "category":
            known = values.get(column.name, ())
            seen = _texts(_column(made, column)).drop_nulls().unique().to_list()
            values[column.name] = (*known, *sorted(set(seen).difference(known)))
    return Vocabulary(values)


def matrix(made: pl.DataFrame, columns: Sequence[Column], vocabulary: Vocabulary) -> Array:
    """float64[rows, columns] in C order: numbers, codes of categories, NaN for null and unknown.

    Raises `FeatureSkew` where a column is gone or is of another kind.
    """
    out = np.full((made.height, len(columns)), np.nan)
    for at, column in enumerate(columns):
        series = _column(made, column)
        if series.dtype == pl.Null:
            continue
        if column.kind == "category":
            known = pl.Enum(vocabulary.values.get(column.name, ()))
            series = _texts(series).cast(known, strict=False).to_physical()
        out[:, at] = series.cast(pl.Float64).to_numpy()  # null becomes NaN
    return out


def _column(made: pl.DataFrame, column: Column) -> pl.Series:
    kind = _kind(made.schema[column.name]) if column.name in made.schema else None
    if kind == column.kind or made.schema.get(column.name) == pl.Null:
        return made[column.name]
    found = "missing" if kind is None else f"a {kind}"
    raise FeatureSkew(
        f"Feature {column.name!r} was a {column.kind} when the model was trained; now it is "
        f"{found}.",
        "Bring the old feature function back, or define a model of a new name.",
    )


def _texts(column: pl.Series) -> pl.Series:
    return column.cast(pl.String)


def _kind(dtype: pl.DataType) -> Kind | None:
    if isinstance(dtype, _CATEGORIES):
        return "category"
    usable = dtype.is_numeric() or dtype in (pl.Boolean, pl.Null)
    return "number" if usable else None


def _same(one: Sequence[Any], other: Sequence[Any]) -> bool:
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


def _unfit(function: FeatureFunction, what: str) -> SpecInvalid:
    return SpecInvalid(
        f"The feature function {function.reference} {what}.",
        "It takes a polars frame of the declared fields and gives one row of text, number or "
        "boolean columns for each row, from that row alone.",
    )
