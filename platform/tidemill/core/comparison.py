"""Comparisons of two models on evidence, against the gate's thresholds."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from tidemill.core.evidence import Estimate, Evidence, estimate, pooled, t_quantile
from tidemill.core.sections import GateSpec

# Measured over nine healthy and nineteen harmful candidate lines (FIELD-NOTES, Gate): with these
# the served log loss stayed within .73 % and 2.1 % of the better choice at worst.
ALPHA_ALONE = 0.01
"""`worse` on a window that is alone in the pool."""
ALPHA = 0.005
"""`worse` on a window behind others, and on a pool of more than one."""
WORSE_WINDOW = 0.01
"""Share of the reference's loss by which the challenger is `worse` on a window."""
WORSE_POOL = 0.005
"""The same on a pool."""
BETTER_CONFIDENCE = 0.95
"""Quantile of t that `better` asks for."""
BETTER = 0.002
"""Share of the reference's loss that `better` asks for."""

Scope = Literal["window", "pool", "tail"]
Outcome = Literal["better", "worse", "neither", "no evidence", "passed", "failed"]


@dataclass(frozen=True)
class Pair:
    """Digests of two models scored on the same rows."""

    reference: str
    challenger: str


@dataclass(frozen=True)
class Comparison:
    """`better` (on the tail: `passed`) is t above `t_above` and m above `m_above`; `worse` is t
    below `t_below` and m below `m_below`. A threshold is None where it is not asked for.
    """

    scope: Scope
    pair: Pair
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
        found = self.estimate
        told = f"{self.scope} of {found.n} rows in {found.clusters} clusters: {self.outcome}"
        if self.outcome == "no evidence":
            return told
        gain = "" if self.gain is None else f", gain {self.gain:+.2%} of the loss"
        return told + gain + ("" if found.t is None else f", t {found.t:+.2f}")


def guard_test(
    scope: Scope,
    pair: Pair,
    evidence: Iterable[Evidence],
    gate: GateSpec,
    worse: tuple[float, float] | None = None,
    better: bool = False,
) -> Comparison:
    """Is the challenger `worse` (alpha, share of the loss; None: not asked) or `better`?

    `no evidence` with fewer than `gate.min_rows` rows or `gate.min_clusters` clusters, or se = 0.
    """
    found = estimate(pooled(evidence))
    few = found.n < gate.min_rows or found.clusters < gate.min_clusters
    if few or found.m is None or found.loss is None or found.t is None or found.dof is None:
        return Comparison(scope, pair, found, "no evidence")
    t_below = -t_quantile(1 - worse[0], found.dof) if worse else None
    m_below = -worse[1] * found.loss if worse else None
    t_above = t_quantile(BETTER_CONFIDENCE, found.dof) if better else None
    m_above = BETTER * found.loss if better else None
    outcome: Outcome = "neither"
    if t_below is not None and m_below is not None and found.t < t_below and found.m < m_below:
        outcome = "worse"
    elif t_above is not None and m_above is not None and found.t > t_above and found.m > m_above:
        outcome = "better"
    return Comparison(scope, pair, found, outcome, t_below, m_below, t_above, m_above)


def entry_test(pair: Pair, tail: Evidence, gate: GateSpec) -> Comparison:
    """Does the holdout fit beat the champion on the tail by more than `gate.min_effect`?"""
    found = estimate(tail)
    if found.n < gate.min_tail_rows or found.m is None or found.loss is None:
        return Comparison("tail", pair, found, "no evidence")
    asked = gate.min_effect * found.loss
    outcome: Outcome = "passed" if found.m > asked else "failed"
    return Comparison("tail", pair, found, outcome, m_above=asked)
