"""The gate in recovery, after manual entries, and under other policies."""

from dataclasses import replace

import pytest

from core.gate_windows import (
    BETTER,
    EVEN,
    LINEAGE,
    MUCH_WORSE,
    TAIL_LOST,
    TAIL_WON,
    following_state,
    loss_differences,
    state_after,
    verdict_for,
)
from tidemill.core import gate
from tidemill.core.comparison import ModelPair
from tidemill.core.gate import AppliedEntry, guarded_pair
from tidemill.core.loss_differences import LossDifferences
from tidemill.core.spec_sections import GateSpec

# Recovery.


def test_in_recovery_nothing_enters_until_the_candidates_are_better_than_the_baseline() -> None:
    state = following_state("b", "b", mode="RECOVERY")
    assert guarded_pair(state, GateSpec(), "k0") == ModelPair("b", "k0")
    still = verdict_for(state, EVEN, TAIL_WON)
    assert (still.verdict, still.state.mode, len(still.state.pool)) == ("keep", "RECOVERY", 1)
    assert [comparison.scope for comparison in still.comparisons] == ["pool"]
    second = verdict_for(still.state, EVEN, TAIL_WON, w=2)
    assert second.comparisons[0].pair == ModelPair("b", "k1")  # the newest of the pairs in the pool


def test_recovery_ends_with_an_empty_pool_and_the_entry_test_of_the_same_window() -> None:
    state = following_state("b", "b", mode="RECOVERY")
    verdict = verdict_for(state, BETTER, TAIL_WON)
    assert verdict.verdict == "promote"
    assert verdict.state == following_state("k1", "b")
    assert verdict_for(state, BETTER, TAIL_LOST).state == following_state("b", "b")


def test_a_gain_below_two_thousandths_does_not_end_a_recovery() -> None:
    state = following_state("b", "b", mode="RECOVERY")
    assert verdict_for(state, loss_differences(0.0019, spread=0.001)).state.mode == "RECOVERY"
    assert verdict_for(state, loss_differences(0.0021, spread=0.001)).state.mode == "FOLLOW"


def test_no_evidence_does_not_end_a_recovery() -> None:
    state = following_state("b", "b", mode="RECOVERY")
    for poor in (
        loss_differences(0.5, 280, 14),
        loss_differences(0.5, spread=0),
        LossDifferences(),
        None,
    ):
        assert verdict_for(state, poor, TAIL_WON).state.mode == "RECOVERY"


# Manual entries, specs and lineages.


def test_a_manual_rollback_sets_champion_and_baseline_and_starts_a_recovery() -> None:
    state = replace(state_after(following_state(), EVEN), pending="k0")
    rolled_back = gate.opening_state(
        state, [AppliedEntry(3, "f" * 64, "rollback", "d")], GateSpec(), LINEAGE
    )
    assert rolled_back == following_state("d", "d", mode="RECOVERY")


def test_an_approval_serves_the_model_and_leaves_the_baseline() -> None:
    state = replace(state_after(following_state("b", "b", mode="RECOVERY"), EVEN), pending="d")
    manual = GateSpec(policy="manual")
    approved = gate.opening_state(
        state, [AppliedEntry(3, "f" * 64, "approve", "d")], manual, LINEAGE
    )
    assert (approved.champion, approved.baseline, approved.mode) == ("d", "b", "FOLLOW")
    assert (approved.pool, approved.pending) == ((), None)


def test_entries_are_applied_in_the_ledgers_order() -> None:
    entries = [
        AppliedEntry(3, "f" * 64, "rollback", "d"),
        AppliedEntry(4, "e" * 64, "approve", "a"),
    ]
    state = gate.opening_state(following_state(), entries, GateSpec(), LINEAGE)
    assert (state.champion, state.baseline, state.mode) == ("a", "d", "FOLLOW")
    state = gate.opening_state(following_state(), entries[::-1], GateSpec(), LINEAGE)
    assert (state.champion, state.baseline, state.mode) == ("d", "d", "RECOVERY")


@pytest.mark.parametrize(
    ("spec", "lineage"), [(GateSpec(min_effect=0.01), LINEAGE), (GateSpec(), "another lineage")]
)
@pytest.mark.parametrize("mode", ["FOLLOW", "RECOVERY"])
def test_a_new_gate_spec_or_lineage_empties_the_pool_and_nothing_else(
    spec: GateSpec, lineage: str, mode: gate.Mode
) -> None:
    state = state_after(following_state("b" if mode == "RECOVERY" else "c", "b", mode=mode), EVEN)
    assert state.pool
    changed = gate.opening_state(state, (), spec, lineage)
    assert (changed.champion, changed.baseline) == (state.champion, state.baseline)
    assert (changed.mode, changed.pool) == (mode, ())
    assert gate.opening_state(changed, (), spec, lineage) == changed


# Policies.


def test_always_serves_every_candidate_untested() -> None:
    always = GateSpec(policy="always")
    verdict = verdict_for(gate.initial_state("i"), None, TAIL_LOST, spec=always)
    assert verdict.verdict == "promote"
    assert (verdict.state.champion, verdict.state.baseline) == ("k1", "k1")
    assert verdict.comparisons == ()
    assert verdict.reasons[0] == "the guard compared nothing: policy always"
    repeated = verdict_for(verdict.state, None, spec=always, candidate="k1", w=2)
    assert (repeated.verdict, repeated.state) == ("keep", verdict.state)


def test_always_after_a_manual_rollback_recovers_as_guarded_does() -> None:
    always, state = GateSpec(policy="always"), following_state("d", "d", mode="RECOVERY")
    assert guarded_pair(state, always, "k0") == ModelPair("d", "k0")
    assert verdict_for(state, EVEN, spec=always).state.champion == "d"
    verdict = verdict_for(state, BETTER, spec=always)
    assert (verdict.verdict, verdict.state.champion, verdict.state.mode) == (
        "promote",
        "k1",
        "FOLLOW",
    )


def test_manual_keeps_the_newest_passed_candidate_pending_until_it_is_approved() -> None:
    manual = GateSpec(policy="manual")
    first = verdict_for(following_state(), EVEN, TAIL_WON, spec=manual)
    assert (first.verdict, first.state.champion, first.state.pending) == ("keep", "c", "k1")
    assert "awaits approval of k1" in first.reasons
    assert not any("this deploys" in reason for reason in first.reasons)
    second = verdict_for(first.state, EVEN, TAIL_LOST, w=2, spec=manual)
    assert second.state.pending == "k1"
    assert verdict_for(second.state, EVEN, TAIL_WON, w=3, spec=manual).state.pending == "k3"


def test_manual_still_rolls_back_a_harmful_champion() -> None:
    assert (
        verdict_for(following_state(), MUCH_WORSE, TAIL_WON, spec=GateSpec(policy="manual")).verdict
        == "rollback"
    )


def test_nothing_awaits_approval_under_another_policy() -> None:
    state = replace(following_state(), pending="k1")
    assert gate.opening_state(state, (), GateSpec(), LINEAGE).pending is None
    assert gate.opening_state(state, (), GateSpec(policy="manual"), LINEAGE).pending == "k1"


def test_people_read_the_first_twelve_digits_of_a_digest() -> None:
    assert gate.short_digest("0123456789abcdef") == "0123456789ab"
