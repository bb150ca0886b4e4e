"""The report of a window: models scored on the same unseen rows, and the gate's verdict."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import polars as pl

from tidemill.core import canonical, gate, scoring
from tidemill.core.errors import ScoreInvalid
from tidemill.core.event_log import TimestampCounts
from tidemill.core.gate import AppliedEntry, GateInputs, GateState
from tidemill.core.loss_differences import cluster_differences, cluster_starts
from tidemill.core.records import Candidate
from tidemill.core.report_records import (
    CumulativeLosses,
    GateSnapshot,
    InputDigests,
    ModelInRole,
    PermutationCheck,
    Report,
)
from tidemill.core.scoring import Array, Slice
from tidemill.core.spec import ModelSpec
from tidemill.core.windows import Window

HOUR_MS = 3_600_000


@dataclass(frozen=True)
class EvaluationInputs:
    """The inputs of a report, without the rows.

    `initial` is the initial model's digest; `entries` are the manual entries that this report
    applies; `ages` are in windows, by digest; `timestamps` counts the window's records by the kind
    of their timestamp.
    """

    model: str
    spec: ModelSpec
    window: Window
    candidate: Candidate
    initial: str
    previous: Report | None
    input_digests: InputDigests
    entries: tuple[AppliedEntry, ...] = ()
    ages: Mapping[str, int] = field(default_factory=dict)
    timestamps: TimestampCounts = field(default_factory=TimestampCounts)


@dataclass(frozen=True)
class EvaluationRows:
    """The window's n rows, sorted by timestamp, partition and offset, as parallel columns.

    `label` is float64, `timestamp` int64 milliseconds since 1970; `tail` is a mask of the rows
    that the holdout fit has not seen (None without a holdout fit); `slices` are the columns of
    `gate.slices`, by field.
    """

    label: Array
    timestamp: npt.NDArray[np.int64]
    tail: npt.NDArray[np.bool_] | None = None
    slices: Mapping[str, pl.Series] = field(default_factory=dict)


def opening_state(inputs: EvaluationInputs) -> GateState:
    """The state in which the window is judged."""
    gate_spec, lineage = inputs.spec.gate, inputs.candidate.lineage
    return gate.opening_state(_previous_state(inputs), inputs.entries, gate_spec, lineage)


def _previous_state(inputs: EvaluationInputs) -> GateState:
    return inputs.previous.state if inputs.previous else gate.initial_state(inputs.initial)


def scored_roles(inputs: EvaluationInputs) -> dict[str, str]:
    """The digests of the models that are scored on every row, by role."""
    state = opening_state(inputs)
    return {
        "initial": inputs.initial,
        "champion": state.champion,
        "baseline": state.baseline,
        "challenger": inputs.candidate.parent,
    }


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
    state, roles = opening_state(inputs), scored_roles(inputs)
    cluster_length = _cluster_length(inputs)
    clusters = cluster_starts(rows.timestamp, inputs.window.start, cluster_length)
    by_digest = {d: _losses(inputs, rows.label, predictions[d]) for d in set(roles.values())}
    losses = {role: by_digest[digest] for role, digest in roles.items()}
    holdout = _holdout_losses(inputs, rows, holdout_predictions)
    gate_inputs = _gate_inputs(inputs, state, by_digest, clusters, rows.tail, holdout)
    verdict = gate.decide(state, inputs.spec.gate, gate_inputs)
    champion, objective = predictions[state.champion], inputs.spec.objective
    return Report(
        model=inputs.model, window=inputs.window.key, lineage=inputs.candidate.lineage,
        policy=inputs.spec.gate.policy, verdict=verdict.verdict, reasons=verdict.reasons,
        inputs=inputs.input_digests, entries=inputs.entries, ledger_seq=_ledger_seq(inputs),
        previous_state=_gate_snapshot(_previous_state(inputs)),
        opening_state=_gate_snapshot(state), state=verdict.state, models=_models(inputs, roles),
        rows=len(rows.label), timestamps=inputs.timestamps,
        clusters=len(np.unique(clusters)), cluster_length=cluster_length,
        tail_rows=0 if holdout is None else len(holdout),
        base_rate=_mean(rows.label) if objective == "binary" else None,
        losses=_mean_losses(inputs, rows, losses, holdout),
        comparisons=verdict.comparisons,
        auc=scoring.auc(rows.label, champion) if objective == "binary" else None,
        calibration=scoring.calibration(objective, rows.label, champion),
        slices=_slices(inputs, rows, losses),
        permutation_check=_permutation_check(inputs, rows, champion, clusters),
        cumulative_losses=_cumulative_losses(inputs.previous, losses),
        gate=inputs.spec.gate.model_dump(mode="json"),
    )  # fmt: skip


def _ledger_seq(inputs: EvaluationInputs) -> int:
    previous_seq = inputs.previous.ledger_seq if inputs.previous else -1
    return max([previous_seq, *(entry.seq for entry in inputs.entries)])


def _losses(inputs: EvaluationInputs, label: Array, prediction: Array) -> Array:
    parameters = inputs.spec.learner.parameters
    return scoring.row_losses(inputs.spec.objective, label, prediction, parameters)


def _cluster_length(inputs: EvaluationInputs) -> int:
    """Milliseconds: `gate.cluster_length`; by default an hour or 1/24 of the window if smaller."""
    configured = inputs.spec.gate.cluster_length
    return configured or min(HOUR_MS, (inputs.window.end - inputs.window.start) // 24)


def _holdout_losses(
    inputs: EvaluationInputs, rows: EvaluationRows, holdout_predictions: Array | None
) -> Array | None:
    holdout = inputs.candidate.holdout
    if holdout is None:
        return None
    if rows.tail is None or holdout_predictions is None:
        raise ScoreInvalid(
            f"The holdout fit {gate.short_digest(holdout)} of window {inputs.window.key} has no "
            "predictions for the tail.",
            "Score it on the rows that it has not seen.",
        )
    return _losses(inputs, rows.label[rows.tail], holdout_predictions)


def _gate_inputs(
    inputs: EvaluationInputs,
    state: GateState,
    losses: Mapping[str, Array],
    clusters: npt.NDArray[np.int64],
    tail: npt.NDArray[np.bool_] | None,
    holdout: Array | None,
) -> GateInputs:
    candidate, tail_differences = inputs.candidate, None
    pair = gate.guarded_pair(state, inputs.spec.gate, candidate.parent)
    window_differences = (
        cluster_differences(losses[pair.reference], losses[pair.challenger], clusters)
        if pair
        else None
    )
    if tail is not None and holdout is not None:
        tail_differences = cluster_differences(
            losses[state.champion][tail], holdout, clusters[tail]
        )
    return GateInputs(
        inputs.window.key,
        candidate.digest,
        candidate.parent,
        candidate.holdout,
        window_differences,
        tail_differences,
    )


def _mean(values: Array) -> float | None:
    return float(values.mean()) if len(values) else None


def _mean_losses(
    inputs: EvaluationInputs,
    rows: EvaluationRows,
    losses: Mapping[str, Array],
    holdout: Array | None,
) -> dict[str, float | None]:
    parameters = inputs.spec.learner.parameters
    means = {role: _mean(loss) for role, loss in losses.items()}
    means["prior"] = scoring.constant_prior(inputs.spec.objective, rows.label, parameters)
    tail = losses["champion"][rows.tail] if rows.tail is not None else None
    means["champion_on_tail"] = None if tail is None else _mean(tail)
    means["holdout_on_tail"] = None if holdout is None else _mean(holdout)
    return means


def _models(inputs: EvaluationInputs, roles: Mapping[str, str]) -> dict[str, ModelInRole]:
    digests = dict(roles) | {"candidate": inputs.candidate.digest}
    if inputs.candidate.holdout is not None:
        digests["holdout"] = inputs.candidate.holdout
    return {role: ModelInRole(digest, inputs.ages.get(digest)) for role, digest in digests.items()}


def _gate_snapshot(state: GateState) -> GateSnapshot:
    return GateSnapshot(state.champion, state.baseline, state.mode, len(state.pool))


def _slices(
    inputs: EvaluationInputs, rows: EvaluationRows, losses: Mapping[str, Array]
) -> tuple[Slice, ...]:
    slices: list[Slice] = []
    for name in inputs.spec.gate.slices:
        slices += scoring.losses_by_slice(name, rows.slices[name], losses)
    return tuple(slices)


def _permutation_check(
    inputs: EvaluationInputs, rows: EvaluationRows, champion: Array, clusters: npt.NDArray[np.int64]
) -> PermutationCheck:
    seed = int(canonical.digest(f"{inputs.model}/{inputs.window.key}".encode())[:16], 16)
    parameters, objective = inputs.spec.learner.parameters, inputs.spec.objective
    result = scoring.permutation_test(objective, rows.label, champion, clusters, parameters, seed)
    gate_spec = inputs.spec.gate
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
