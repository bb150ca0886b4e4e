"""Comparisons of two models by their loss differences, with the gate's thresholds."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from tidemill.core.loss_differences import (
    Estimate,
    LossDifferences,
    estimate,
    pool_differences,
    t_quantile,
)
from tidemill.core.spec_sections import GateSpec

# Measured over nine healthy and nineteen harmful lineages (platform/docs/design/measurements.md):
# with these, the served log loss was at most 0.73 % and 2.1 % above that of the better choice.
ALPHA_SINGLE_WINDOW = 0.01
"""Level of `worse` on a window that is the only one in the pool."""
ALPHA = 0.005
"""Level of `worse` on a window that follows others, and on a pool of more than one."""
WORSE_WINDOW_MARGIN = 0.01
"""Share of the reference's loss by which the challenger is `worse` on a window."""
WORSE_POOL_MARGIN = 0.005
"""The same for a pool."""
BETTER_CONFIDENCE = 0.95
"""Quantile of t that `better` requires."""
BETTER_MARGIN = 0.002
"""Share of the reference's loss that `better` requires."""

Scope = Literal["window", "pool", "tail"]
Outcome = Literal["better", "worse", "neither", "no evidence", "passed", "failed"]


@dataclass(frozen=True)
class ModelPair:
    """Digests of two models scored on the same rows."""

    reference: str
    challenger: str


@dataclass(frozen=True)
class Comparison:
    """The challenger against the reference, with the thresholds and the outcome.

    `better` (on the tail: `passed`) is t above `t_above` and m above `m_above`; `worse` is t below
    `t_below` and m below `m_below`. A threshold that was not applied is None.
    """

    scope: Scope
    pair: ModelPair
    estimate: Estimate
    outcome: Outcome
    t_below: float | None = None
    m_below: float | None = None
    t_above: float | None = None
    m_above: float | None = None

    @property
    def gain(self) -> float | None:
        """m/L, the gain as a share of the reference's loss; None without rows or loss."""
        m, loss = self.estimate.m, self.estimate.loss
        return None if m is None or not loss else m / loss

    def __str__(self) -> str:
        result = self.estimate
        summary = f"{self.scope} of {result.n} rows in {result.clusters} clusters: {self.outcome}"
        if self.outcome == "no evidence":
            return summary
        gain = "" if self.gain is None else f", gain {self.gain:+.2%} of the loss"
        return summary + gain + ("" if result.t is None else f", t {result.t:+.2f}")


def guard_test(
    scope: Scope,
    pair: ModelPair,
    differences: Iterable[LossDifferences],
    gate: GateSpec,
    worse: tuple[float, float] | None = None,
    better: bool = False,
) -> Comparison:
    """Is the challenger `worse` (alpha, share of the loss; None: not tested) or `better`?

    `no evidence` with fewer than `gate.min_rows` rows or `gate.min_clusters` clusters, or se = 0.
    """
    result = estimate(pool_differences(differences))
    insufficient = result.n < gate.min_rows or result.clusters < gate.min_clusters
    if (
        insufficient
        or result.m is None
        or result.loss is None
        or result.t is None
        or result.dof is None
    ):
        return Comparison(scope, pair, result, "no evidence")
    t_below = -t_quantile(1 - worse[0], result.dof) if worse else None
    m_below = -worse[1] * result.loss if worse else None
    t_above = t_quantile(BETTER_CONFIDENCE, result.dof) if better else None
    m_above = BETTER_MARGIN * result.loss if better else None
    outcome: Outcome = "neither"
    if t_below is not None and m_below is not None and result.t < t_below and result.m < m_below:
        outcome = "worse"
    elif t_above is not None and m_above is not None and result.t > t_above and result.m > m_above:
        outcome = "better"
    return Comparison(scope, pair, result, outcome, t_below, m_below, t_above, m_above)


def entry_test(pair: ModelPair, tail_differences: LossDifferences, gate: GateSpec) -> Comparison:
    """Is the holdout fit better than the champion on the tail by more than `gate.min_effect`?"""
    result = estimate(tail_differences)
    if result.n < gate.min_tail_rows or result.m is None or result.loss is None:
        return Comparison("tail", pair, result, "no evidence")
    threshold = gate.min_effect * result.loss
    outcome: Outcome = "passed" if result.m > threshold else "failed"
    return Comparison("tail", pair, result, outcome, m_above=threshold)
