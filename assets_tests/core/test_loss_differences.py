"""Loss differences: the clustered mean gain, its standard error, and when they are undefined."""

import math
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidemill.core.loss_differences import (
    Estimate,
    LossDifferences,
    cluster_differences,
    cluster_starts,
    estimate,
    pool_differences,
    t_quantile,
)

HOUR = 3_600_000
LOSS = st.floats(0, 1e6, allow_subnormal=False)
ROWS = st.lists(st.tuples(LOSS, LOSS, st.integers(0, 5)), min_size=1, max_size=60)


def differences_of(rows: list[tuple[float, float, int]]) -> LossDifferences:
    reference, challenger, clusters = zip(*rows, strict=True)
    return cluster_differences(
        np.array(reference, dtype=float), np.array(challenger, dtype=float), np.array(clusters)
    )


def test_the_formula_gives_the_numbers_worked_out_by_hand() -> None:
    # Clusters of 2, 1 and 1 rows with gain sums 3, 1 and 0: m = 4/4 = 1; residuals 1, 0, -1;
    # se = sqrt(3/2 * 2)/4 = sqrt(3)/4; t = 4/sqrt(3).
    result = estimate(differences_of([(2, 1, 0), (2, 0, 0), (2, 1, 7), (2, 2, 9)]))
    assert (result.n, result.clusters, result.dof) == (4, 3, 2)
    assert result.m == 1
    assert result.loss == 2
    assert result.se == pytest.approx(math.sqrt(3) / 4)
    assert result.t == pytest.approx(4 / math.sqrt(3))


@given(ROWS)
def test_every_estimate_is_that_of_a_naive_formula(
    rows: list[tuple[float, float, int]],
) -> None:
    result, n = estimate(differences_of(rows)), len(rows)
    mean = sum(r - c for r, c, _ in rows) / n
    assert result.m == pytest.approx(mean, rel=1e-9, abs=1e-6)
    assert result.loss == pytest.approx(sum(r for r, _, _ in rows) / n)
    names = {g for _, _, g in rows}
    if len(names) < 2:
        assert (result.se, result.t, result.dof) == (None, None, None)
        return
    squares = 0.0
    for name in names:
        own = [r - c for r, c, g in rows if g == name]
        squares += (sum(own) - mean * len(own)) ** 2
    naive = math.sqrt(len(names) / (len(names) - 1) * squares) / n
    assert result.se == pytest.approx(naive, rel=1e-6, abs=1e-6)
    assert result.dof == len(names) - 1
    if result.t is not None:
        assert result.m is not None
        assert result.se is not None
        assert result.t == pytest.approx(result.m / result.se)


def test_a_model_against_itself_has_a_standard_error_of_zero_and_no_t() -> None:
    loss = np.random.default_rng(1).random(500)
    result = estimate(cluster_differences(loss, loss, np.arange(500) // 25))
    assert (result.m, result.se, result.t, result.dof) == (0, 0, None, 19)


def test_a_spread_too_small_to_be_a_number_gives_no_t() -> None:
    smallest = 5e-324
    result = estimate(LossDifferences((0, 1), (20, 20), (smallest, 0.0), (20.0, 20.0)))
    assert (result.se, result.t) == (0, None)


def test_sums_of_different_lengths_are_refused() -> None:
    ragged = LossDifferences((0, 1), (20, 20), (1.0, 2.0, 3.0), (20.0, 20.0))
    for function in (estimate, lambda result: pool_differences([result])):
        with pytest.raises(ValueError, match="zip"):
            function(ragged)


@pytest.mark.parametrize("gain", [0.1, 1e-9, 1e6, 1 / 3])
def test_equal_gains_on_every_row_are_no_evidence_even_after_rounding(gain: float) -> None:
    loss = np.full(1000, 2.0 * gain)
    result = estimate(cluster_differences(loss, loss - gain, np.arange(1000) // 37))
    assert result.dof == 27
    assert result.se == 0
    assert result.t is None


@pytest.mark.parametrize("unit", [1e-180, 1e-3, 1e3, 1e180])
def test_t_does_not_depend_on_the_unit_of_the_loss(unit: float) -> None:
    draw = np.random.default_rng(2)
    reference, challenger, clusters = draw.random(300), draw.random(300), np.arange(300) // 20
    plain = estimate(cluster_differences(reference, challenger, clusters)).t
    scaled = estimate(cluster_differences(reference * unit, challenger * unit, clusters)).t
    assert plain is not None
    assert scaled == pytest.approx(plain)


def test_no_rows_give_no_number() -> None:
    assert estimate(LossDifferences()) == Estimate(0, 0)
    assert (
        cluster_differences(np.zeros(0), np.zeros(0), np.zeros(0, dtype=np.int64))
        == LossDifferences()
    )


@given(ROWS, st.randoms())
def test_the_order_of_rows_does_not_matter(
    rows: list[tuple[float, float, int]], shuffler: random.Random
) -> None:
    mixed = list(rows)
    shuffler.shuffle(mixed)
    one, other = differences_of(rows), differences_of(mixed)
    assert (one.clusters, one.rows) == (other.clusters, other.rows)
    assert one.gains == pytest.approx(other.gains, abs=1e-6)
    assert one.losses == pytest.approx(other.losses)


@given(ROWS, ROWS)
def test_pooled_differences_are_those_of_all_rows_together(
    one: list[tuple[float, float, int]], other: list[tuple[float, float, int]]
) -> None:
    pooled, combined = (
        pool_differences([differences_of(one), differences_of(other)]),
        differences_of(one + other),
    )
    assert (pooled.clusters, pooled.rows) == (combined.clusters, combined.rows)
    assert pooled.gains == pytest.approx(combined.gains, abs=1e-6)
    assert pooled.losses == pytest.approx(combined.losses)


def test_clusters_lie_edge_to_edge_from_the_windows_start_on_in_both_directions() -> None:
    start = 1_700_000_000_123
    times = np.array([start - 1, start, start + HOUR - 1, start + HOUR, start - HOUR])
    expected = [start - HOUR, start, start, start + HOUR, start - HOUR]
    assert cluster_starts(times, start, HOUR).tolist() == expected


@pytest.mark.parametrize(
    ("probability", "dof", "printed"),
    [(0.95, 10, 1.8125), (0.99, 7, 2.9980), (0.995, 23, 2.8073), (0.995, 143, 2.6106)],
)
def test_quantiles_are_those_of_printed_tables(
    probability: float, dof: int, printed: float
) -> None:
    assert t_quantile(probability, dof) == pytest.approx(printed, abs=1e-4)
