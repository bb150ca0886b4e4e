"""The gate: a guard over what serves, then an entry test for what is new."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

from tidemill.core import canonical
from tidemill.core.comparison import (
    ALPHA,
    ALPHA_ALONE,
    WORSE_POOL,
    WORSE_WINDOW,
    Comparison,
    Pair,
    entry_test,
    guard_test,
)
from tidemill.core.evidence import Evidence
from tidemill.core.ledger import Kind
from tidemill.core.sections import GateSpec

Mode = Literal["FOLLOW", "RECOVERY"]
Decision = Literal["promote", "keep", "roll_back"]


@dataclass(frozen=True)
class Taken:
    """A person's entry of the ledger that a report takes; `hash` is the sha256 of its bytes."""

    seq: int
    hash: str
    kind: Kind
    digest: str


@dataclass(frozen=True)
class PooledWindow:
    """What one judged window said of a pair of models."""

    window: str
    pair: Pair
    evidence: Evidence


@dataclass(frozen=True)
class GateState:
    """What the gate remembers from window to window.

    `pending` is the candidate that awaits a person's approval; `spec` is the digest of the gate
    spec and `line` the candidate line that the pool was judged under (None before any window).
    """

    champion: str
    baseline: str
    mode: Mode = "FOLLOW"
    pool: tuple[PooledWindow, ...] = ()
    pending: str | None = None
    spec: str | None = None
    line: str | None = None


@dataclass(frozen=True)
class Facts:
    """What is known at the close of a window. Models are digests.

    `parent` is the candidate of the window before. `on_window` is the evidence of the pair that
    `judged` names, on all rows; `on_tail` that of the holdout fit against the champion, on the
    tail. They are None where there is no such pair, or no holdout fit.
    """

    window: str
    candidate: str
    parent: str
    holdout: str | None
    on_window: Evidence | None
    on_tail: Evidence | None


@dataclass(frozen=True)
class Verdict:
    """What the gate decided, why, on which comparisons, and its state from now on."""

    verdict: Decision
    reasons: tuple[str, ...]
    state: GateState
    comparisons: tuple[Comparison, ...] = ()


def start(initial: str) -> GateState:
    """The state before the first window: the initial model is champion and baseline."""
    return GateState(champion=initial, baseline=initial)


def before(state: GateState, entries: Iterable[Taken], gate: GateSpec, line: str) -> GateState:
    """The state in which a window is judged: another spec or line, then the persons' entries.

    Its champion and baseline are the models to score.
    """
    spec = canonical.digest_of(gate.model_dump())
    if (state.spec, state.line) != (spec, line):
        state = replace(state, pool=(), spec=spec, line=line)
    if gate.policy != "manual":
        state = replace(state, pending=None)
    for entry in entries:
        d = entry.digest
        if entry.kind == "rollback":
            state = replace(state, champion=d, baseline=d, mode="RECOVERY", pool=())
        elif entry.kind == "approve":
            state = replace(state, champion=d, mode="FOLLOW", pool=(), pending=None)
    return state


def judged(state: GateState, gate: GateSpec, parent: str) -> Pair | None:
    """What the guard compares on the whole window; None: there is nothing to guard."""
    if state.mode == "RECOVERY":
        return Pair(state.baseline, parent)
    if gate.policy == "always" or state.champion == state.baseline:
        return None
    return Pair(state.baseline, state.champion)


def decide(state: GateState, gate: GateSpec, facts: Facts) -> Verdict:
    """The verdict of a window, from the state that `before` gave."""
    guarded = _guard(state, gate, facts)
    if guarded.state.mode == "RECOVERY":  # rolled back just now, or still not proven better
        return guarded
    entered = _enter(guarded.state, gate, facts)
    return replace(
        entered,
        reasons=guarded.reasons + entered.reasons,
        comparisons=guarded.comparisons + entered.comparisons,
    )


def _guard(state: GateState, gate: GateSpec, facts: Facts) -> Verdict:
    pair = judged(state, gate, facts.parent)
    if pair is None:
        told = "policy always" if gate.policy == "always" else "the champion is the baseline"
        return Verdict("keep", (f"the guard had nothing to judge: {told}",), state)
    if facts.on_window is None or not facts.on_window.rows:
        return Verdict("keep", ("the guard had nothing to judge: no rows",), state)
    pool = (*state.pool, PooledWindow(facts.window, pair, facts.on_window))[-gate.pool :]
    state = replace(state, pool=pool)
    return _recover(state, gate) if state.mode == "RECOVERY" else _watch(state, gate)


def _watch(state: GateState, gate: GateSpec) -> Verdict:
    """FOLLOW: back to the baseline if the champion is worse; a proven champion becomes it."""
    pool, newest = state.pool, state.pool[-1]
    alpha = ALPHA_ALONE if len(pool) == 1 else ALPHA
    asked = [newest.evidence], gate, (alpha, WORSE_WINDOW)
    made = [guard_test("window", newest.pair, *asked)]
    if len(pool) > 1:
        all_ = [part.evidence for part in pool], gate, (ALPHA, WORSE_POOL), len(pool) == gate.pool
        made.append(guard_test("pool", newest.pair, *all_))
    for found in made:
        if found.outcome == "worse":
            told = f"the champion is worse than the baseline, back to that: {found}"
            back = replace(state, champion=state.baseline, mode="RECOVERY", pool=())
            return Verdict("roll_back", (told,), back, tuple(made))
    if made[-1].outcome == "better":
        told = f"the champion is better than the baseline and takes its place: {made[-1]}"
        state = replace(state, baseline=state.champion, pool=())
    else:
        told = f"the guard lets the champion serve: {'; '.join(map(str, made))}"
    return Verdict("keep", (told,), state, tuple(made))


def _recover(state: GateState, gate: GateSpec) -> Verdict:
    """RECOVERY: the line must prove better than the baseline before it is followed again."""
    evidence = [part.evidence for part in state.pool]
    found = guard_test("pool", state.pool[-1].pair, evidence, gate, better=True)
    if found.outcome != "better":
        told = f"in recovery, the candidates are not proven better than the baseline: {found}"
        return Verdict("keep", (told,), state, (found,))
    told = f"recovery ends, the candidates are better than the baseline: {found}"
    return Verdict("keep", (told,), replace(state, mode="FOLLOW", pool=()), (found,))


def _enter(state: GateState, gate: GateSpec, facts: Facts) -> Verdict:
    candidate, holdout = facts.candidate, facts.holdout
    if gate.policy == "always":
        moved: Decision = "keep" if candidate == state.champion else "promote"
        state = replace(state, champion=candidate, baseline=candidate)
        return Verdict(moved, (f"policy always: candidate {short(candidate)} serves",), state)
    if candidate == state.champion:
        return Verdict("keep", ("the candidate is the champion itself",), state)
    if holdout is None or facts.on_tail is None:
        return Verdict("keep", ("no holdout fit: too few rows to learn and judge on",), state)
    found = entry_test(Pair(state.champion, holdout), facts.on_tail, gate)
    was = f"judged was the holdout fit {short(holdout)}: {found}"
    if found.outcome != "passed":
        return Verdict("keep", (f"the champion stays; {was}",), state, (found,))
    same = f"candidate {short(candidate)}, the same update finished on the whole window"
    if gate.policy == "manual":
        told = f"awaits approval of {candidate}", f"{was}; up for approval is {same}"
        return Verdict("keep", told, replace(state, pending=candidate), (found,))
    told_ = (f"{was}; deployed is {same}",)
    return Verdict("promote", told_, replace(state, champion=candidate), (found,))


def short(digest: str) -> str:
    """A digest's first 12 digits, to be read by people."""
    return digest[:12]
