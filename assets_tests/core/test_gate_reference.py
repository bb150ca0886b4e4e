"""The gate over whole streams, against a naive reference."""

from math import sqrt

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import stdtrit

from core.gate_windows import LINEAGE, Policy
from tidemill.core import gate
from tidemill.core.gate import AppliedEntry, GateInputs, decide, guarded_pair
from tidemill.core.loss_differences import LossDifferences
from tidemill.core.spec_sections import GateSpec

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
