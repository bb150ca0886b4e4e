"""Labels as numbers: 0 or 1, the index of a class, or a number the objective has a loss for."""

from collections.abc import Sequence
from typing import Any

import polars as pl

from tidemill.core.spec import ModelSpec

LARGEST = 3.4028234e38
"""LightGBM keeps labels as 32-bit floats; beyond this they would be infinite."""

_LEAST = {"poisson": "below 0", "tweedie": "below 0", "gamma": "not above 0"}


def labelled(spec: ModelSpec, told: Sequence[Any]) -> tuple[pl.Series, dict[int, str]]:
    """The label column (Float64) of the values that fit, and the reasons of those that do not.

    `told` holds what JSON said: booleans and numbers for `binary`, texts, whole numbers and
    booleans for `multiclass`, else numbers. Reasons go by position in `told`; those positions are
    not in the column.
    """
    if spec.objective == "multiclass":
        numbers = _class_indices(spec, told)
    else:
        numbers = pl.Series(spec.label, told, dtype=pl.Float64, strict=True)
    fits = _fits(spec, numbers)
    if fits.all():
        return numbers, {}
    wrong = (~fits).arg_true().to_list()
    return numbers.filter(fits), {at: _reason(spec, told[at]) for at in wrong}


def _class_indices(spec: ModelSpec, told: Sequence[Any]) -> pl.Series:
    index = {name: float(at) for at, name in enumerate(spec.classes)}
    return pl.Series(spec.label, [index.get(as_text(value)) for value in told], dtype=pl.Float64)


def as_text(value: str | int | bool) -> str:
    """A value's text: what JSON would write for a whole number or a boolean."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return value if isinstance(value, str) else str(value)


def _fits(spec: ModelSpec, numbers: pl.Series) -> pl.Series:
    match spec.objective:
        case "binary":
            return (numbers == 0) | (numbers == 1)
        case "multiclass":
            return numbers.is_not_null()
        case "poisson" | "tweedie":
            return (numbers >= 0) & (numbers <= LARGEST)
        case "gamma":
            return (numbers > 0) & (numbers <= LARGEST)
        case _:
            return numbers.abs() <= LARGEST


def _reason(spec: ModelSpec, value: Any) -> str:
    if spec.objective in ("binary", "multiclass"):
        return f"`{spec.label}`: outside its classes"
    too_large = abs(value) > LARGEST
    return f"`{spec.label}`: {'out of range' if too_large else _LEAST[spec.objective]}"
