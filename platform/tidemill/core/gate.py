"""The gate: a guard over the model in service, then an entry test for the new one."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

from tidemill.core import canonical
from tidemill.core.comparison import (
    ALPHA,
    ALPHA_SINGLE_WINDOW,
    WORSE_POOL_MARGIN,
    WORSE_WINDOW_MARGIN,
    Comparison,
    ModelPair,
    entry_test,
    guard_test,
)
from tidemill.core.ledger import EntryKind
from tidemill.core.loss_differences import LossDifferences
from tidemill.core.spec_sections import GateSpec

Mode = Literal["FOLLOW", "RECOVERY"]
Decision = Literal["promote", "keep", "rollback"]


@dataclass(frozen=True)
class AppliedEntry:
    """A manual ledger entry that a report applies; `hash` is the sha256 of its bytes."""

    seq: int
    hash: str
    kind: EntryKind
    digest: str


@dataclass(frozen=True)
class PooledWindow:
    """The result of one judged window for a pair of models."""

    window: str
    pair: ModelPair
    differences: LossDifferences


@dataclass(frozen=True)
class GateState:
    """The state that the gate keeps from window to window.

    `pending` is the candidate that awaits approval; `spec` is the digest of the gate spec and
    `lineage` the lineage under which the pool was judged (None before any window).
    """

    champion: str
    baseline: str
    mode: Mode = "FOLLOW"
    pool: tuple[PooledWindow, ...] = ()
    pending: str | None = None
    spec: str | None = None
    lineage: str | None = None


@dataclass(frozen=True)
class GateInputs:
    """The inputs of a decision, when a window is closed. Models are digests.

    `parent` is the candidate of the previous window. `window_differences` are those of the pair
    from `guarded_pair`, on all rows, None without a pair; `tail_differences` are those of the
    holdout fit against the champion, on the tail, None without a holdout fit.
    """

    window: str
    candidate: str
    parent: str
    holdout: str | None
    window_differences: LossDifferences | None
    tail_differences: LossDifferences | None


@dataclass(frozen=True)
class Verdict:
    """The gate's decision with reasons and comparisons, and its state from now on."""

    verdict: Decision
    reasons: tuple[str, ...]
    state: GateState
    comparisons: tuple[Comparison, ...] = ()


def initial_state(initial: str) -> GateState:
    """The state before the first window: the initial model is champion and baseline."""
    return GateState(champion=initial, baseline=initial)


def opening_state(
    state: GateState, entries: Iterable[AppliedEntry], gate: GateSpec, lineage: str
) -> GateState:
    """The state in which a window is judged, after a changed spec or lineage and manual entries.

    Its champion and baseline are the models to score.
    """
    spec = canonical.digest_of(gate.model_dump())
    if (state.spec, state.lineage) != (spec, lineage):
        state = replace(state, pool=(), spec=spec, lineage=lineage)
    if gate.policy != "manual":
        state = replace(state, pending=None)
    for entry in entries:
        digest = entry.digest
        if entry.kind == "rollback":
            state = replace(state, champion=digest, baseline=digest, mode="RECOVERY", pool=())
        elif entry.kind == "approve":
            state = replace(state, champion=digest, mode="FOLLOW", pool=(), pending=None)
    return state


def guarded_pair(state: GateState, gate: GateSpec, parent: str) -> ModelPair | None:
    """The models that the guard compares on the whole window; None if it compares nothing."""
    if state.mode == "RECOVERY":
        return ModelPair(state.baseline, parent)
    if gate.policy == "always" or state.champion == state.baseline:
        return None
    return ModelPair(state.baseline, state.champion)


def decide(state: GateState, gate: GateSpec, inputs: GateInputs) -> Verdict:
    """The verdict of a window, given the state from `opening_state`."""
    guard_verdict = _guard(state, gate, inputs)
    if guard_verdict.state.mode == "RECOVERY":  # rolled back just now, or not proven better yet
        return guard_verdict
    entry_verdict = _entry_test(guard_verdict.state, gate, inputs)
    return replace(
        entry_verdict,
        reasons=guard_verdict.reasons + entry_verdict.reasons,
        comparisons=guard_verdict.comparisons + entry_verdict.comparisons,
    )


def _guard(state: GateState, gate: GateSpec, inputs: GateInputs) -> Verdict:
    pair = guarded_pair(state, gate, inputs.parent)
    if pair is None:
        explanation = "policy always" if gate.policy == "always" else "the champion is the baseline"
        return Verdict("keep", (f"the guard compared nothing: {explanation}",), state)
    if inputs.window_differences is None or not inputs.window_differences.rows:
        return Verdict("keep", ("the guard compared nothing: no rows",), state)
    pool = (*state.pool, PooledWindow(inputs.window, pair, inputs.window_differences))[
        -gate.pool_size :
    ]
    state = replace(state, pool=pool)
    return (
        _guard_recovery(state, gate) if state.mode == "RECOVERY" else _guard_following(state, gate)
    )


def _guard_following(state: GateState, gate: GateSpec) -> Verdict:
    """FOLLOW: a worse champion is rolled back; a better one becomes the baseline."""
    pool, newest = state.pool, state.pool[-1]
    alpha = ALPHA_SINGLE_WINDOW if len(pool) == 1 else ALPHA
    window_args = [newest.differences], gate, (alpha, WORSE_WINDOW_MARGIN)
    comparisons = [guard_test("window", newest.pair, *window_args)]
    if len(pool) > 1:
        pool_args = (
            [part.differences for part in pool],
            gate,
            (ALPHA, WORSE_POOL_MARGIN),
            len(pool) == gate.pool_size,
        )
        comparisons.append(guard_test("pool", newest.pair, *pool_args))
    for comparison in comparisons:
        if comparison.outcome == "worse":
            reason = f"the champion is worse than the baseline and is rolled back: {comparison}"
            rolled_back = replace(state, champion=state.baseline, mode="RECOVERY", pool=())
            return Verdict("rollback", (reason,), rolled_back, tuple(comparisons))
    if comparisons[-1].outcome == "better":
        reason = f"the champion is better than the baseline and replaces it: {comparisons[-1]}"
        state = replace(state, baseline=state.champion, pool=())
    else:
        reason = f"the guard keeps the champion in service: {'; '.join(map(str, comparisons))}"
    return Verdict("keep", (reason,), state, tuple(comparisons))


def _guard_recovery(state: GateState, gate: GateSpec) -> Verdict:
    """RECOVERY: candidates must be proven better than the baseline before one is promoted again."""
    differences = [part.differences for part in state.pool]
    comparison = guard_test("pool", state.pool[-1].pair, differences, gate, better=True)
    if comparison.outcome != "better":
        reason = (
            f"in recovery, the candidates are not proven better than the baseline: {comparison}"
        )
        return Verdict("keep", (reason,), state, (comparison,))
    reason = f"recovery ends: the candidates are better than the baseline: {comparison}"
    return Verdict("keep", (reason,), replace(state, mode="FOLLOW", pool=()), (comparison,))


def _entry_test(state: GateState, gate: GateSpec, inputs: GateInputs) -> Verdict:
    candidate, holdout = inputs.candidate, inputs.holdout
    if gate.policy == "always":
        decision: Decision = "keep" if candidate == state.champion else "promote"
        state = replace(state, champion=candidate, baseline=candidate)
        return Verdict(
            decision, (f"policy always: candidate {short_digest(candidate)} is deployed",), state
        )
    if candidate == state.champion:
        return Verdict("keep", ("the candidate is the champion",), state)
    if holdout is None or inputs.tail_differences is None:
        return Verdict("keep", ("no holdout fit: too few rows to learn and judge on",), state)
    comparison = entry_test(ModelPair(state.champion, holdout), inputs.tail_differences, gate)
    tested = f"tested the holdout fit {short_digest(holdout)}: {comparison}"
    if comparison.outcome != "passed":
        return Verdict("keep", (f"the champion stays; {tested}",), state, (comparison,))
    deployable = f"candidate {short_digest(candidate)}, the same update completed with the tail"
    if gate.policy == "manual":
        manual_reasons = (
            f"awaits approval of {candidate}",
            f"{tested}; approval deploys {deployable}",
        )
        return Verdict("keep", manual_reasons, replace(state, pending=candidate), (comparison,))
    promotion_reasons = (f"{tested}; this deploys {deployable}",)
    return Verdict("promote", promotion_reasons, replace(state, champion=candidate), (comparison,))


def short_digest(digest: str) -> str:
    """The first 12 digits of a digest, for display."""
    return digest[:12]
