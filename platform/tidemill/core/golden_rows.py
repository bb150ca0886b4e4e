"""Golden rows: raw rows in a bundle, with the predictions that it must reproduce."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
import polars as pl

from tidemill.core.features import Array

MAX_GOLDEN_ROWS = 16
"""Upper bound of the golden rows of a bundle; up to a quarter are chosen among rows with nulls."""
RELATIVE_TOLERANCE = 1e-9
"""Relative difference up to which two predictions count as equal."""


@dataclass(frozen=True)
class GoldenRow:
    """A raw JSON row of the declared fields, and the model's prediction for it."""

    row: msgspec.Raw
    prediction: float | list[float]

    def is_reproduced_by(self, prediction: float | list[float]) -> bool:
        """Whether this prediction, or each of its classes, equals that of the golden row."""
        one, other = (x if isinstance(x, list) else [x] for x in (prediction, self.prediction))
        return len(one) == len(other) and all(
            math.isclose(a, b, rel_tol=RELATIVE_TOLERANCE) for a, b in zip(one, other, strict=True)
        )


def golden_rows(fields: pl.DataFrame, predictions: Array) -> tuple[GoldenRow, ...]:
    """The golden rows with these fields and predictions, as parallel rows."""
    rows = zip(fields.to_dicts(), predictions.tolist(), strict=True)
    return tuple(
        GoldenRow(msgspec.Raw(msgspec.json.encode(row)), prediction) for row, prediction in rows
    )


def golden_row_indices(fields: pl.DataFrame) -> list[int]:
    """The indices of the golden rows: spread evenly over all rows, and over those with a null."""
    all_rows = range(fields.height)
    has_null = np.zeros(fields.height, dtype=bool)
    for column in fields.iter_columns():
        has_null |= column.is_null().to_numpy()
    null_rows = set(_evenly_spaced(np.flatnonzero(has_null).tolist(), MAX_GOLDEN_ROWS // 4))
    return sorted(null_rows | set(_evenly_spaced(all_rows, MAX_GOLDEN_ROWS - len(null_rows))))


def _evenly_spaced(positions: Sequence[int], count: int) -> list[int]:
    """At most `count` of the positions, including the first and the last."""
    if len(positions) <= count:
        return list(positions)
    last = len(positions) - 1
    return [positions[i * last // (count - 1)] for i in range(count)]
