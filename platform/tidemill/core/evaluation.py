"""Evaluation: what a report is made from, and the losses of the models that it compares."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import polars as pl

from tidemill.core import gate, scoring
from tidemill.core.errors import ScoreInvalid
from tidemill.core.event_log import TimestampCounts
from tidemill.core.gate import AppliedEntry, GateInputs, GateState
from tidemill.core.loss_differences import cluster_differences, cluster_starts
from tidemill.core.records import Candidate
from tidemill.core.report_records import InputDigests, Report
from tidemill.core.scoring import Array
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
    gate_spec = inputs.spec.gate
    lineage = inputs.candidate.lineage
    return gate.opening_state(previous_state(inputs), inputs.entries, gate_spec, lineage)


def previous_state(inputs: EvaluationInputs) -> GateState:
    """The state after the previous report; before the first, the initial model is in service."""
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


@dataclass(frozen=True)
class ScoredWindow:
    """The losses of the models on the n rows of a window.

    `state` is the one in which the window is judged. `clusters` numbers each row's cluster of
    `cluster_length` milliseconds. `losses` are those of all rows, by role of `scored_roles`;
    `holdout` those of the holdout fit on the tail (None without one); `champion` are the
    predictions of the model in service.
    """

    inputs: EvaluationInputs
    rows: EvaluationRows
    state: GateState
    roles: dict[str, str]
    cluster_length: int
    clusters: npt.NDArray[np.int64]
    losses: dict[str, Array]
    holdout: Array | None
    champion: Array

    def gate_inputs(self) -> GateInputs:
        """What the gate decides on: the differences between the losses of the models."""
        candidate = self.inputs.candidate
        by_digest = self._losses_by_digest()
        pair = gate.guarded_pair(self.state, self.inputs.spec.gate, candidate.parent)
        window_differences = None
        tail_differences = None
        if pair:
            window_differences = cluster_differences(
                by_digest[pair.reference], by_digest[pair.challenger], self.clusters
            )
        tail = self.rows.tail
        if tail is not None and self.holdout is not None:
            tail_differences = cluster_differences(
                self.losses["champion"][tail], self.holdout, self.clusters[tail]
            )
        return GateInputs(
            self.inputs.window.key,
            candidate.digest,
            candidate.parent,
            candidate.holdout,
            window_differences,
            tail_differences,
        )

    def _losses_by_digest(self) -> dict[str, Array]:
        return {digest: self.losses[role] for role, digest in self.roles.items()}


def score_window(
    inputs: EvaluationInputs,
    rows: EvaluationRows,
    predictions: Mapping[str, Array],
    holdout_predictions: Array | None = None,
) -> ScoredWindow:
    """Score the predictions of a window's models; the arguments are those of `build_report`."""
    state = opening_state(inputs)
    roles = scored_roles(inputs)
    cluster_length = _cluster_length(inputs)
    by_digest = {d: _losses(inputs, rows.label, predictions[d]) for d in set(roles.values())}
    return ScoredWindow(
        inputs=inputs,
        rows=rows,
        state=state,
        roles=roles,
        cluster_length=cluster_length,
        clusters=cluster_starts(rows.timestamp, inputs.window.start, cluster_length),
        losses={role: by_digest[digest] for role, digest in roles.items()},
        holdout=_holdout_losses(inputs, rows, holdout_predictions),
        champion=predictions[state.champion],
    )


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
