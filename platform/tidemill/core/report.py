"""The report of a window: models scored on the same unseen rows, and the gate's verdict."""

from collections.abc import Mapping

import numpy as np

from tidemill.core import canonical, gate, scoring
from tidemill.core.evaluation import (
    EvaluationInputs,
    EvaluationRows,
    ScoredWindow,
    previous_state,
    score_window,
)
from tidemill.core.gate import GateState, Verdict
from tidemill.core.report_records import (
    CumulativeLosses,
    GateSnapshot,
    ModelInRole,
    PermutationCheck,
    Report,
)
from tidemill.core.scoring import Array, Slice


def build_report(
    inputs: EvaluationInputs,
    rows: EvaluationRows,
    predictions: Mapping[str, Array],
    holdout_predictions: Array | None = None,
) -> Report:
    """The report of a window.

    `predictions` holds the predictions for all rows by each model of `scored_roles`, by digest;
    `holdout_predictions` those of the holdout fit for the tail only. Raises `ScoreInvalid`.
    """
    scored = score_window(inputs, rows, predictions, holdout_predictions)
    verdict = gate.decide(scored.state, inputs.spec.gate, scored.gate_inputs())
    return _report(scored, verdict)


def _report(scored: ScoredWindow, verdict: Verdict) -> Report:
    inputs = scored.inputs
    label = scored.rows.label
    objective = scored.inputs.spec.objective
    return Report(
        model=inputs.model,
        window=inputs.window.key,
        lineage=inputs.candidate.lineage,
        policy=inputs.spec.gate.policy,
        verdict=verdict.verdict,
        reasons=verdict.reasons,
        inputs=inputs.input_digests,
        entries=inputs.entries,
        ledger_seq=_ledger_seq(inputs),
        previous_state=_gate_snapshot(previous_state(inputs)),
        opening_state=_gate_snapshot(scored.state),
        state=verdict.state,
        models=_models(scored),
        rows=len(label),
        timestamps=inputs.timestamps,
        clusters=len(np.unique(scored.clusters)),
        cluster_length=scored.cluster_length,
        tail_rows=0 if scored.holdout is None else len(scored.holdout),
        base_rate=_mean(label) if objective == "binary" else None,
        losses=_mean_losses(scored),
        comparisons=verdict.comparisons,
        auc=scoring.auc(label, scored.champion) if objective == "binary" else None,
        calibration=scoring.calibration(objective, label, scored.champion),
        slices=_slices(scored),
        permutation_check=_permutation_check(scored),
        cumulative_losses=_cumulative_losses(inputs.previous, scored.losses),
        gate=inputs.spec.gate.model_dump(mode="json"),
    )


def _ledger_seq(inputs: EvaluationInputs) -> int:
    previous_seq = inputs.previous.ledger_seq if inputs.previous else -1
    return max([previous_seq, *(entry.seq for entry in inputs.entries)])


def _mean(values: Array) -> float | None:
    return float(values.mean()) if len(values) else None


def _mean_losses(scored: ScoredWindow) -> dict[str, float | None]:
    spec = scored.inputs.spec
    rows = scored.rows
    losses = scored.losses
    means = {role: _mean(loss) for role, loss in losses.items()}
    means["prior"] = scoring.constant_prior(spec.objective, rows.label, spec.learner.parameters)
    tail = losses["champion"][rows.tail] if rows.tail is not None else None
    means["champion_on_tail"] = None if tail is None else _mean(tail)
    means["holdout_on_tail"] = None if scored.holdout is None else _mean(scored.holdout)
    return means


def _models(scored: ScoredWindow) -> dict[str, ModelInRole]:
    inputs = scored.inputs
    candidate = scored.inputs.candidate
    digests = scored.roles | {"candidate": candidate.digest}
    if candidate.holdout is not None:
        digests["holdout"] = candidate.holdout
    return {role: ModelInRole(digest, inputs.ages.get(digest)) for role, digest in digests.items()}


def _gate_snapshot(state: GateState) -> GateSnapshot:
    return GateSnapshot(state.champion, state.baseline, state.mode, len(state.pool))


def _slices(scored: ScoredWindow) -> tuple[Slice, ...]:
    slices: list[Slice] = []
    for name in scored.inputs.spec.gate.slices:
        slices += scoring.losses_by_slice(name, scored.rows.slices[name], scored.losses)
    return tuple(slices)


def _permutation_check(scored: ScoredWindow) -> PermutationCheck:
    inputs = scored.inputs
    gate_spec = scored.inputs.spec.gate
    result = scoring.permutation_test(
        inputs.spec.objective,
        scored.rows.label,
        scored.champion,
        scored.clusters,
        inputs.spec.learner.parameters,
        int(canonical.digest(f"{inputs.model}/{inputs.window.key}".encode())[:16], 16),
    )
    insufficient = (
        result.n < gate_spec.min_rows
        or result.clusters < gate_spec.min_clusters
        or result.t is None
    )
    return PermutationCheck(
        result, None if insufficient or result.t is None else result.t < scoring.PERMUTATION_ALARM_T
    )


def _cumulative_losses(previous: Report | None, losses: Mapping[str, Array]) -> CumulativeLosses:
    totals = previous.cumulative_losses if previous else CumulativeLosses()
    sums = {role: totals.sums.get(role, 0.0) + float(loss.sum()) for role, loss in losses.items()}
    return CumulativeLosses(totals.rows + len(losses["champion"]), sums)
