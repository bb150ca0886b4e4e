"""The replay sample: bounded, recency-biased, and independent of the order of processing."""

import hashlib
import math
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import polars as pl

Array = npt.NDArray[np.float64]

IDENTITY_COLUMNS = ("_epoch", "_partition", "_offset")
CANONICAL_ORDER = ("_timestamp", "_partition", "_offset", "_epoch")
"""The canonical order of rows: event time, then position in the log."""

_DAY_MS = 86_400_000


def with_epoch(rows: pl.DataFrame, epoch: int) -> pl.DataFrame:
    """Rows of a batch with `_epoch` (Int32) as the first column, as in samples."""
    return rows.select(pl.lit(epoch, dtype=pl.Int32).alias("_epoch"), pl.all())


def priorities(frame: pl.DataFrame, half_life_ms: int, key: str) -> Array:
    """float64[rows]: `log(-log u) - λ·t`, of which a sample keeps the smallest.

    `u` in (0, 1) is a hash of `key` and the row's identity, `λ = ln 2 / half_life` (given in ms),
    `t` the event time. Its `exp` is an exponential variate whose rate doubles with every half-life,
    so the k smallest are a weighted sample without replacement
    (Efraimidis and Spirakis, Weighted random sampling with a reservoir, 2006).
    """
    days = frame["_timestamp"].to_numpy() / _DAY_MS
    rate = math.log(2) / (half_life_ms / _DAY_MS)
    return np.asarray(np.log(-np.log(uniforms(frame, key))) - rate * days, dtype=np.float64)


def uniforms(frame: pl.DataFrame, key: str) -> Array:
    """float64[rows] strictly between 0 and 1, from a keyed hash of the row's identity."""
    seed = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "little")
    state = np.full(frame.height, seed, dtype=np.uint64)
    for name in IDENTITY_COLUMNS:
        state = _splitmix64(
            state ^ _splitmix64(frame[name].cast(pl.Int64).to_numpy().view(np.uint64))
        )
    # 52 bits plus one half: the values closest to 0 and 1 that a double represents exactly
    return ((state >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52


def sample(frames: Iterable[pl.DataFrame], rows: int, half_life_ms: int, key: str) -> pl.DataFrame:
    """The `rows` rows of these frames with the smallest priorities, in canonical order.

    The frames have one schema, with the identity columns and `_timestamp`. A duplicate row counts
    once; ties are broken by identity. Sampling the samples of parts gives the sample of the whole.
    """
    union = pl.concat(list(frames)).unique(IDENTITY_COLUMNS, keep="any")
    priority = pl.Series("_priority", priorities(union, half_life_ms, key))
    sampled = union.with_columns(priority).sort("_priority", *IDENTITY_COLUMNS).head(rows)
    return sampled.drop("_priority").sort(*CANONICAL_ORDER)


def _splitmix64(state: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """One step of splitmix64 (Steele, Lea and Flood, 2014), elementwise."""
    state = state + np.uint64(0x9E3779B97F4A7C15)
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))
