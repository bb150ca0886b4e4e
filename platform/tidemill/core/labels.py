"""Labels as numbers: 0 or 1, the index of a class, or a number in the objective's range."""

from collections.abc import Sequence
from typing import Any

import polars as pl

from tidemill.core.spec import ModelSpec

MAX_LABEL = 3.4028234e38
"""LightGBM keeps labels as 32-bit floats; beyond this they would be infinite."""

_RANGE_ERRORS = {"poisson": "below 0", "tweedie": "below 0", "gamma": "not above 0"}


def encode_labels(spec: ModelSpec, values: Sequence[Any]) -> tuple[pl.Series, dict[int, str]]:
    """The label column (Float64) of the valid values, and the reasons why others are not valid.

    `values` are decoded from JSON: booleans and numbers for `binary`; text, whole numbers and
    booleans for `multiclass`; otherwise numbers. The keys of the reasons are positions in
    `values`; the column does not contain these positions.
    """
    if spec.objective == "multiclass":
        numbers = _class_indices(spec, values)
    else:
        numbers = pl.Series(spec.label, values, dtype=pl.Float64, strict=True)
    valid = _is_valid(spec, numbers)
    if valid.all():
        return numbers, {}
    invalid = (~valid).arg_true().to_list()
    return numbers.filter(valid), {
        position: _reason(spec, values[position]) for position in invalid
    }


def _class_indices(spec: ModelSpec, values: Sequence[Any]) -> pl.Series:
    index = {name: float(position) for position, name in enumerate(spec.classes)}
    return pl.Series(spec.label, [index.get(as_text(value)) for value in values], dtype=pl.Float64)


def as_text(value: str | int | bool) -> str:
    """A category's text; a whole number or a boolean is written as in JSON."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return value if isinstance(value, str) else str(value)


def _is_valid(spec: ModelSpec, numbers: pl.Series) -> pl.Series:
    match spec.objective:
        case "binary":
            return (numbers == 0) | (numbers == 1)
        case "multiclass":
            return numbers.is_not_null()
        case "poisson" | "tweedie":
            return (numbers >= 0) & (numbers <= MAX_LABEL)
        case "gamma":
            return (numbers > 0) & (numbers <= MAX_LABEL)
        case _:
            return numbers.abs() <= MAX_LABEL


def _reason(spec: ModelSpec, value: Any) -> str:
    if spec.objective in ("binary", "multiclass"):
        return f"`{spec.label}`: outside its classes"
    too_large = abs(value) > MAX_LABEL
    return f"`{spec.label}`: {'out of range' if too_large else _RANGE_ERRORS[spec.objective]}"
