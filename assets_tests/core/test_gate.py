"""The gate's rules one by one, and long streams against a naive reference implementation."""

from dataclasses import replace
from math import sqrt
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import stdtrit

from tidemill.core import gate
from tidemill.core.comparison import ModelPair
from tidemill.core.gate import AppliedEntry, GateInputs, GateState, Verdict, decide, guarded_pair
from tidemill.core.loss_differences import LossDifferences
from tidemill.core.spec_sections import GateSpec

LINEAGE = "lineage"
Policy = Literal["guarded", "always", "manual"]


def loss_differences(
    gain: float, n: int = 480, clusters: int = 24, spread: float = 0.1
) -> LossDifferences:
    """A mean gain on a mean loss of 1, in equal clusters that are `spread` above and below it."""
    cluster_rows = n // clusters
    gains = [cluster_rows * (gain + (spread if k % 2 else -spread)) for k in range(clusters)]
    return LossDifferences(
        tuple(range(clusters)),
        (cluster_rows,) * clusters,
        tuple(gains),
        (float(cluster_rows),) * clusters,
    )


TAIL_WON = loss_differences(0.01, 96, 4)
TAIL_LOST = loss_differences(0.0005, 96, 4)
MUCH_WORSE, WORSE, EVEN, BETTER = (loss_differences(g) for g in (-0.3, -0.05, 0.0, 0.05))


def following_state(champion: str = "c", baseline: str = "b", **fields: Any) -> GateState:
    """A state as `opening_state` returns it."""
    state = GateState(champion, baseline, **fields)
    return gate.opening_state(
        replace(state, lineage=LINEAGE, spec=_spec_digest()), (), GateSpec(), LINEAGE
    )


def _spec_digest() -> str | None:
    return gate.opening_state(gate.initial_state("x"), (), GateSpec(), LINEAGE).spec


def verdict_for(
    state: GateState,
    window_differences: LossDifferences | None = EVEN,
    tail_differences: LossDifferences | None = TAIL_LOST,
    w: int = 1,
    spec: GateSpec | None = None,
    **overrides: Any,
) -> Verdict:
    """The verdict of window `w`, whose candidate is `k<w>`."""
    inputs = GateInputs(
        f"w{w}", f"k{w}", f"k{w - 1}", f"h{w}", window_differences, tail_differences
    )
    return decide(state, spec or GateSpec(), replace(inputs, **overrides))


def state_after(state: GateState, *windows: LossDifferences) -> GateState:
    """The state after these windows for the guarded pair, with failed entry tests."""
    for w, differences in enumerate(windows, 1):
        state = verdict_for(state, differences, w=w).state
    return state


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


def _gain_at_t(t: float, clusters: int = 24, spread: float = 0.1) -> float:
    """The gain with this t; the standard error is spread/sqrt(clusters - 1)."""
    return t * spread / sqrt(clusters - 1)


def test_a_first_window_is_judged_at_one_percent_and_a_later_one_at_half_a_percent() -> None:
    between = (stdtrit(23, 0.99) + stdtrit(23, 0.995)) / 2
    doubtful = loss_differences(-_gain_at_t(between))
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


# Whole streams against a naive reference.

Gains = list[list[float]]


class Reference:
    """The rules of platform/docs/design/gate.md over plain lists of per-cluster mean gains, with a
    loss of 1 per row and 20 rows per cluster. It shares no code with the gate."""

    def __init__(self, policy: Policy) -> None:
        self.policy, self.champion, self.baseline, self.mode = policy, "i", "i", "FOLLOW"
        self.pooled_gains: Gains = []
        self.pending: str | None = None

    def entry(self, kind: str, d: str) -> None:
        self.champion, self.pooled_gains = d, []
        if kind == "rollback":
            self.baseline, self.mode = d, "RECOVERY"
        else:
            self.mode, self.pending = "FOLLOW", None

    def window(self, w: int, gains: list[float], tail: float) -> str:
        if self.mode == "FOLLOW" and self.champion != self.baseline and self.policy != "always":
            self.pooled_gains = [*self.pooled_gains, gains][-6:]
            alpha = 0.01 if len(self.pooled_gains) == 1 else 0.005
            worse = self.worse(gains, alpha, 0.01)
            if worse or (len(self.pooled_gains) > 1 and self.worse(self.pool(), 0.005, 0.005)):
                self.champion, self.mode, self.pooled_gains = self.baseline, "RECOVERY", []
                return "rollback"
            if len(self.pooled_gains) == 6 and self.better(self.pool()):
                self.baseline, self.pooled_gains = self.champion, []
        elif self.mode == "RECOVERY":
            self.pooled_gains = [*self.pooled_gains, gains][-6:]
            if not self.better(self.pool()):
                return "keep"
            self.mode, self.pooled_gains = "FOLLOW", []
        if self.policy == "always":
            self.champion = self.baseline = f"k{w}"
            self.pooled_gains = []
            return "promote"
        if tail <= 0.001:
            return "keep"
        if self.policy == "manual":
            self.pending = f"k{w}"
            return "keep"
        self.champion = f"k{w}"
        return "promote"

    def pool(self) -> list[float]:
        return [gain for gains in self.pooled_gains for gain in gains]

    def t_statistic(self, gains: list[float]) -> tuple[float, float, int] | None:
        g, m = len(gains), sum(gains) / len(gains)
        se = sqrt(g / (g - 1) * sum((20 * d - m * 20) ** 2 for d in gains)) / (20 * g)
        return (m, m / se, g - 1) if se > 0 else None

    def worse(self, gains: list[float], alpha: float, effect: float) -> bool:
        statistic = self.t_statistic(gains)
        return (
            statistic is not None
            and statistic[1] < -stdtrit(statistic[2], 1 - alpha)
            and statistic[0] < -effect
        )

    def better(self, gains: list[float]) -> bool:
        statistic = self.t_statistic(gains)
        return (
            statistic is not None
            and statistic[1] > stdtrit(statistic[2], 0.95)
            and statistic[0] > 0.002
        )


WINDOWS = st.tuples(
    st.sampled_from([-0.2, -0.02, -0.008, -0.003, 0.0, 0.003, 0.02, 0.2]),
    st.sampled_from([0.001, 0.02, 0.3]),
    st.integers(0, 5),
    st.sampled_from([-0.01, 0.0005, 0.002, 0.02]),
    st.sampled_from(["", "", "", "", "rollback", "approve"]),
)


@pytest.mark.parametrize("policy", ["guarded", "always", "manual"])
@given(stream=st.lists(WINDOWS, min_size=6, max_size=30))
@settings(max_examples=150)
def test_over_any_stream_the_gate_decides_as_the_reference_does(
    policy: Policy, stream: list[tuple[float, float, int, float, str]]
) -> None:
    state, spec, naive = gate.initial_state("i"), GateSpec(policy=policy), Reference(policy)
    for w, (gain, spread, phase, tail, kind) in enumerate(stream, 1):
        entries = []
        if kind in ("rollback", "approve"):
            entries.append(AppliedEntry(w, "f" * 64, kind, f"p{w}"))  # type: ignore[arg-type]
            naive.entry(kind, f"p{w}")
        gains = [gain + spread * ((k + phase) % 7 - 3) / 4 for k in range(24)]
        state = gate.opening_state(state, entries, spec, LINEAGE)
        pair = guarded_pair(state, spec, f"k{w - 1}")
        window_differences = LossDifferences(
            tuple(range(100 * w, 100 * w + 24)),
            (20,) * 24,
            tuple(20 * d for d in gains),
            (20.0,) * 24,
        )
        tail_differences = LossDifferences((100 * w + 23,), (100,), (100 * tail,), (100.0,))
        inputs = GateInputs(
            f"w{w}",
            f"k{w}",
            f"k{w - 1}",
            f"h{w}",
            window_differences if pair else None,
            tail_differences,
        )
        verdict = decide(state, spec, inputs)
        state = verdict.state
        assert verdict.verdict == naive.window(w, gains, tail)
        assert (state.champion, state.baseline, state.mode) == (
            naive.champion,
            naive.baseline,
            naive.mode,
        )
        assert (len(state.pool), state.pending) == (len(naive.pooled_gains), naive.pending)
        assert verdict.reasons
