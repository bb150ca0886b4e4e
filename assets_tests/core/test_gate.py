"""The gate's entry test and its guard, rule by rule."""

from dataclasses import replace

import pytest
from scipy.special import stdtrit

from core.gate_windows import (
    BETTER,
    EVEN,
    MUCH_WORSE,
    TAIL_WON,
    following_state,
    gain_at_t,
    loss_differences,
    state_after,
    verdict_for,
)
from tidemill.core import gate
from tidemill.core.gate import GateState, guarded_pair
from tidemill.core.loss_differences import LossDifferences
from tidemill.core.spec_sections import GateSpec

# The entry test.


def test_a_holdout_fit_that_wins_the_tail_brings_in_the_finished_candidate() -> None:
    verdict = verdict_for(gate.initial_state("i"), None, TAIL_WON)
    assert verdict.verdict == "promote"
    assert verdict.state == GateState("k1", "i")
    assert "tested the holdout fit h1" in verdict.reasons[-1]
    assert "this deploys candidate k1" in verdict.reasons[-1]


def test_a_gain_of_just_the_minimal_effect_does_not_enter() -> None:
    gate_spec = GateSpec(min_effect=0.0625)  # a binary fraction: the threshold is exact
    for gain, verdict in ((0.0625, "keep"), (0.0626, "promote")):
        tail = loss_differences(gain, 64, 4, spread=0)
        assert verdict_for(gate.initial_state("i"), None, tail, spec=gate_spec).verdict == verdict


def test_a_minimal_effect_of_zero_is_the_literal_outperforms() -> None:
    literal = GateSpec(min_effect=0)
    assert (
        verdict_for(
            gate.initial_state("i"), None, loss_differences(1e-6, 96, 4), spec=literal
        ).verdict
        == "promote"
    )
    assert (
        verdict_for(
            gate.initial_state("i"), None, loss_differences(0, 96, 4, 0), spec=literal
        ).verdict
        == "keep"
    )


def test_the_entry_test_needs_thirty_rows() -> None:
    assert (
        verdict_for(gate.initial_state("i"), None, loss_differences(0.1, 29, 29)).verdict == "keep"
    )
    assert (
        verdict_for(gate.initial_state("i"), None, loss_differences(0.1, 30, 30)).verdict
        == "promote"
    )
    assert (
        verdict_for(gate.initial_state("i"), None, LossDifferences()).comparisons[0].outcome
        == "no evidence"
    )


def test_without_a_holdout_fit_the_champion_stays_and_the_report_says_why() -> None:
    verdict = verdict_for(following_state(), EVEN, None, holdout=None)
    assert (verdict.verdict, verdict.state.champion) == ("keep", "c")
    assert "no holdout fit" in verdict.reasons[-1]
    for half in (
        verdict_for(following_state(), EVEN, None),
        verdict_for(following_state(), EVEN, TAIL_WON, holdout=None),
    ):
        assert (half.verdict, half.reasons) == (verdict.verdict, verdict.reasons)


def test_a_candidate_that_is_the_champion_is_not_promoted() -> None:
    verdict = verdict_for(following_state("k1"), EVEN, TAIL_WON)
    assert verdict.verdict == "keep"
    assert verdict.state.champion == "k1"


# The guard.


def test_the_guard_compares_nothing_while_the_champion_is_the_baseline() -> None:
    assert guarded_pair(gate.initial_state("i"), GateSpec(), "k0") is None
    verdict = verdict_for(gate.initial_state("i"), None)
    assert verdict.reasons[0] == "the guard compared nothing: the champion is the baseline"
    assert verdict.state.pool == ()


def test_a_champion_much_worse_on_one_window_is_rolled_back_and_nothing_enters() -> None:
    verdict = verdict_for(following_state(), MUCH_WORSE, TAIL_WON)
    assert verdict.verdict == "rollback"
    assert verdict.state == following_state("b", "b", mode="RECOVERY")
    assert [comparison.scope for comparison in verdict.comparisons] == ["window"]


def test_a_first_window_is_judged_at_one_percent_and_a_later_one_at_half_a_percent() -> None:
    between = (stdtrit(23, 0.99) + stdtrit(23, 0.995)) / 2
    doubtful = loss_differences(-gain_at_t(between))
    assert verdict_for(following_state(), doubtful).verdict == "rollback"
    second = verdict_for(state_after(following_state(), loss_differences(0.2)), doubtful, w=2)
    assert second.verdict == "keep"
    assert second.comparisons[0].t_below == pytest.approx(-stdtrit(23, 0.995))


def test_a_certain_but_small_loss_on_a_window_is_no_reason_to_rollback() -> None:
    assert verdict_for(following_state(), loss_differences(-0.0099, spread=0.001)).verdict == "keep"
    assert (
        verdict_for(following_state(), loss_differences(-0.0101, spread=0.001)).verdict
        == "rollback"
    )


def test_a_pool_of_two_finds_what_no_window_shows() -> None:
    slow = loss_differences(-0.0075, spread=0.001)
    state = state_after(following_state(), slow)
    assert state.champion == "c"
    verdict = verdict_for(state, slow, w=2)
    assert verdict.verdict == "rollback"
    assert [comparison.outcome for comparison in verdict.comparisons] == ["neither", "worse"]
    slower = loss_differences(-0.0049, spread=0.001)
    state = state_after(following_state(), slower)
    assert verdict_for(state, slower, w=2).verdict == "keep"


def test_a_few_lucky_windows_do_not_replace_the_baseline_but_a_full_pool_does() -> None:
    five = state_after(following_state(), *[BETTER] * 5)
    assert (five.baseline, len(five.pool)) == ("b", 5)
    verdict = verdict_for(five, BETTER, w=6)
    assert verdict.verdict == "keep"
    assert (verdict.state.baseline, verdict.state.pool) == ("c", ())
    assert "replaces it: pool of" in verdict.reasons[0]


def test_a_full_pool_that_is_not_better_moves_on_window_by_window() -> None:
    state = state_after(following_state(), *[EVEN] * 9)
    assert state.baseline == "b"
    assert [part.window for part in state.pool] == [f"w{w}" for w in range(4, 10)]


def test_a_promotion_leaves_the_pool_and_the_baseline_as_they_are() -> None:
    verdict = verdict_for(state_after(following_state(), EVEN), EVEN, TAIL_WON, w=2)
    assert verdict.verdict == "promote"
    assert (verdict.state.champion, verdict.state.baseline) == ("k2", "b")
    assert [part.pair.challenger for part in verdict.state.pool] == ["c", "c"]


def test_small_steps_down_end_at_the_baseline_and_not_at_the_champion_before() -> None:
    state, w = following_state("k0", "b"), 1
    while state.mode == "FOLLOW":
        verdict = verdict_for(state, loss_differences(-0.004 * w, spread=0.001), TAIL_WON, w=w)
        state, w = verdict.state, w + 1
        assert w < 9
    assert state.champion == "b"


@pytest.mark.parametrize(
    "poor",
    [
        loss_differences(-0.5, 299, 13),
        loss_differences(-0.5, 490, 7),
        loss_differences(-0.5, spread=0),
    ],
)
def test_too_few_rows_or_clusters_or_no_spread_give_no_guard_verdict(poor: LossDifferences) -> None:
    verdict = verdict_for(following_state(), poor)
    assert verdict.comparisons[0].outcome == "no evidence"
    assert verdict.comparisons[0].t_below is None
    assert (verdict.verdict, verdict.state.mode) == ("keep", "FOLLOW")
    assert len(verdict.state.pool) == 1


def test_windows_too_small_for_a_verdict_give_one_together() -> None:
    small = [loss_differences(-0.3, 150, 10)] * 2
    shifted = replace(small[1], clusters=tuple(range(100, 110)))
    first = verdict_for(following_state(), small[0])
    assert first.verdict == "keep"
    assert verdict_for(first.state, shifted, w=2).verdict == "rollback"


def test_a_window_without_rows_is_not_judged_and_does_not_join_the_pool() -> None:
    state = state_after(following_state(), EVEN)
    verdict = verdict_for(state, LossDifferences(), None, w=2, holdout=None)
    assert (verdict.verdict, verdict.state) == ("keep", state)
