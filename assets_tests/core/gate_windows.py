"""Windows and states of the gate: the loss differences of one window, and verdicts on them."""

from dataclasses import replace
from math import sqrt
from typing import Any, Literal

from tidemill.core import gate
from tidemill.core.gate import GateInputs, GateState, Verdict, decide
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
        replace(state, lineage=LINEAGE, spec=spec_digest()), (), GateSpec(), LINEAGE
    )


def spec_digest() -> str | None:
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


def gain_at_t(t: float, clusters: int = 24, spread: float = 0.1) -> float:
    """The gain with this t; the standard error is spread/sqrt(clusters - 1)."""
    return t * spread / sqrt(clusters - 1)
