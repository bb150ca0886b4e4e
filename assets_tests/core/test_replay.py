"""The replay sample is a pure function of the rows from which it was taken."""

import math
import random

import numpy as np
import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from tidemill.core import replay

DAY = 86_400_000

identities = st.tuples(st.integers(-1, 2), st.integers(-(2**31), 2**31 - 1), st.integers(0, 2**62))
tables = st.dictionaries(identities, st.integers(0, 100 * DAY), max_size=30)


def frame(rows: dict[tuple[int, int, int], int]) -> pl.DataFrame:
    schema = {"_epoch": pl.Int32, "_partition": pl.Int32, "_offset": pl.Int64}
    records = [(*identity, time, float(time)) for identity, time in rows.items()]
    return pl.DataFrame(
        records, schema=schema | {"_timestamp": pl.Int64, "x": pl.Float64}, orient="row"
    )


@given(tables, st.integers(1, 12), st.randoms(use_true_random=False))
def test_samples_of_parts_sampled_again_are_the_sample_of_the_whole(
    rows: dict[tuple[int, int, int], int], size: int, draw: random.Random
) -> None:
    expected = replay.sample([frame(rows)], size, 10 * DAY, "k")
    items = list(rows.items())
    draw.shuffle(items)
    cut, overlap = draw.randint(0, len(items)), draw.randint(0, len(items))
    parts = [dict(items[:cut]), dict(items[cut:]), dict(items[overlap:])]  # the last overlaps
    merged = replay.sample(
        [replay.sample([frame(part)], size, 10 * DAY, "k") for part in parts], size, 10 * DAY, "k"
    )
    assert merged.equals(expected)
    assert expected.height == min(size, len(rows))


def many(count: int, days: int) -> pl.DataFrame:
    return frame({(0, i % 4, i): i * days * DAY // count for i in range(count)})


def test_a_row_of_one_half_life_ago_is_half_as_likely_to_be_kept() -> None:
    sample = replay.sample([many(200_000, 60)], 5_000, 10 * DAY, "k")
    age = (60 * DAY - sample["_timestamp"].to_numpy()) / DAY
    newest, older = int((age < 10).sum()), int(((age >= 10) & (age < 20)).sum())
    assert 1.8 < newest / older < 2.2


def test_the_hash_is_uniform_and_another_key_is_another_draw() -> None:
    uniforms = replay.uniforms(many(50_000, 1), "k")
    assert uniforms.min() > 0
    assert uniforms.max() < 1
    assert np.abs(np.histogram(uniforms, 10, (0, 1))[0] - 5_000).max() < 300
    assert abs(np.corrcoef(uniforms[:-1], uniforms[1:])[0, 1]) < 0.02
    assert not np.isin(replay.uniforms(many(50_000, 1), "l"), uniforms).any()


def test_the_priority_is_the_formula() -> None:
    one = frame({(0, 1, 2): 5 * DAY})
    u = replay.uniforms(one, "k")[0]
    expected = math.log(-math.log(u)) - math.log(2) / 10 * 5
    assert math.isclose(replay.priorities(one, 10 * DAY, "k")[0], expected, rel_tol=1e-12)


def test_the_draw_never_changes() -> None:
    assert replay.uniforms(frame({(0, 1, 2): 0, (-1, -7, 3): 0}), "k").tolist() == [
        0.8184569070907713,
        0.20748549125140137,
    ]


def test_a_sample_is_in_canonical_order_and_carries_its_epoch() -> None:
    rows = pl.DataFrame({"_partition": [1, 0], "_offset": [5, 6], "_timestamp": [9, 8]}).cast(
        {"_partition": pl.Int32}
    )
    sample = replay.sample([replay.with_epoch(rows, 3)], 10, DAY, "k")
    assert sample.rows() == [(3, 0, 6, 8), (3, 1, 5, 9)]
    assert sample.schema["_epoch"] == pl.Int32
