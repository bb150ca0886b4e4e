"""Comparisons: thresholds are shares of the reference's loss, and must be exceeded."""

import pytest

from tidemill.core import comparison
from tidemill.core.comparison import BETTER_MARGIN, Comparison, ModelPair, entry_test, guard_test
from tidemill.core.loss_differences import Estimate, LossDifferences, estimate
from tidemill.core.spec_sections import GateSpec

PAIR = ModelPair("reference", "challenger")
WORSE = (0.01, 0.0625)
"""Alpha, and a share of the loss that is a binary fraction, so that thresholds are exact."""


def loss_differences(
    gain: float, loss: float = 1.0, clusters: int = 32, spread: float = 2**-12
) -> LossDifferences:
    """Sixteen rows per cluster, with mean gains of `spread` above and below this one."""
    gains = [16 * (gain + (spread if k % 2 else -spread)) for k in range(clusters)]
    rows = (16,) * clusters
    return LossDifferences(tuple(range(clusters)), rows, tuple(gains), (16 * loss,) * clusters)


def guard(differences: LossDifferences, gate: GateSpec | None = None) -> Comparison:
    return guard_test("window", PAIR, [differences], gate or GateSpec(), WORSE, better=True)


@pytest.mark.parametrize("loss", [0.25, 1.0, 4.0])
def test_a_threshold_is_a_share_of_the_references_loss(loss: float) -> None:
    result = guard(loss_differences(0, loss))
    assert result.m_below == -0.0625 * loss
    assert result.m_above == BETTER_MARGIN * loss
    assert guard(loss_differences(-0.07 * loss, loss)).outcome == "worse"
    assert guard(loss_differences(-0.06 * loss, loss)).outcome == "neither"
    assert guard(loss_differences(0.003 * loss, loss)).outcome == "better"
    assert guard(loss_differences(0.001 * loss, loss)).outcome == "neither"
    entry = entry_test(PAIR, loss_differences(0.07 * loss, loss), GateSpec(min_effect=0.0625))
    assert (entry.outcome, entry.m_above) == ("passed", 0.0625 * loss)


def test_a_gain_of_just_the_threshold_is_no_verdict() -> None:
    for threshold in (-0.0625, BETTER_MARGIN):
        result = guard(loss_differences(threshold))
        assert result.estimate.m == threshold
        assert result.outcome == "neither"


@pytest.mark.parametrize("gain", [-0.1, 0.1])
def test_a_t_of_just_the_quantile_is_no_verdict(
    gain: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    t = estimate(loss_differences(gain)).t
    assert t is not None
    monkeypatch.setattr(comparison, "t_quantile", lambda *_: abs(t))
    assert guard(loss_differences(gain)).outcome == "neither"


def test_just_enough_rows_and_clusters_are_enough() -> None:
    gate = GateSpec(min_rows=128, min_clusters=8)
    assert guard(loss_differences(-0.1, clusters=8), gate).outcome == "worse"
    assert guard(loss_differences(-0.1, clusters=7), gate).outcome == "no evidence"


def test_the_gain_is_a_share_of_the_loss_if_there_is_any() -> None:
    def gain(m: float | None, loss: float | None) -> float | None:
        return Comparison("tail", PAIR, Estimate(1, 1, m, loss), "failed").gain

    assert gain(0.5, 4.0) == 0.125
    assert gain(0.5, 0.0) is None
    assert gain(None, None) is None


def test_a_comparison_is_described_in_one_line() -> None:
    assert str(guard(loss_differences(-0.1, spread=2**-4))) == (
        "window of 512 rows in 32 clusters: worse, gain -10.00% of the loss, t -8.91"
    )
    assert (
        str(guard(loss_differences(-0.1, clusters=7)))
        == "window of 112 rows in 7 clusters: no evidence"
    )
    exact = entry_test(PAIR, loss_differences(0.125, spread=0), GateSpec())
    assert str(exact) == "tail of 512 rows in 32 clusters: passed, gain +12.50% of the loss"
    no_loss = entry_test(PAIR, loss_differences(0, loss=0, spread=0), GateSpec())
    assert str(no_loss) == "tail of 512 rows in 32 clusters: failed"
