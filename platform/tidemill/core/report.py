"""The report of a window: models scored on the same unseen rows, and the gate's verdict."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import polars as pl

from tidemill.core import canonical, gate, scoring
from tidemill.core.errors import ScoreInvalid
from tidemill.core.evidence import cluster_starts, gather
from tidemill.core.gate import Facts, GateState, Taken
from tidemill.core.log import Timestamps
from tidemill.core.records import Candidate
from tidemill.core.report_markdown import markdown
from tidemill.core.report_records import Inputs, Pairing, Report, Role, Running, Seats
from tidemill.core.scoring import Array, Slice
from tidemill.core.spec import ModelSpec
from tidemill.core.windows import Window

__all__ = [
    "Case", "Inputs", "Pairing", "Report", "Role", "Rows", "Running", "Seats",
    "judge", "markdown", "opening", "scored",
]  # fmt: skip

HOUR = 3_600_000


@dataclass(frozen=True)
class Case:
    """What is judged: all but the rows. `initial` is the initial model's digest; `ages` are in
    windows, by digest; `entries` are the persons' entries that this report takes; `timestamps`
    counts the window's records by the kind of their time."""

    model: str
    spec: ModelSpec
    window: Window
    candidate: Candidate
    initial: str
    previous: Report | None
    inputs: Inputs
    entries: tuple[Taken, ...] = ()
    ages: Mapping[str, int] = field(default_factory=dict)
    timestamps: Timestamps = field(default_factory=Timestamps)


@dataclass(frozen=True)
class Rows:
    """The window's n rows, in the order of (timestamp, partition, offset), as parallel columns.

    `label` is float64, `timestamp` int64 milliseconds since 1970; `tail` is a mask of the rows
    that the holdout fit has not seen (None without one); `slices` are the columns of
    `gate.slices`, by field.
    """

    label: Array
    timestamp: npt.NDArray[np.int64]
    tail: npt.NDArray[np.bool_] | None = None
    slices: Mapping[str, pl.Series] = field(default_factory=dict)


def opening(case: Case) -> GateState:
    """The state in which the window is judged."""
    state = case.previous.state if case.previous else gate.start(case.initial)
    return gate.before(state, case.entries, case.spec.gate, case.candidate.line)


def scored(case: Case) -> dict[str, str]:
    """The roles whose models are scored on every row, and their digests."""
    state = opening(case)
    return {
        "initial": case.initial,
        "champion": state.champion,
        "baseline": state.baseline,
        "challenger": case.candidate.parent,
    }


def judge(
    case: Case, rows: Rows, predictions: Mapping[str, Array], on_tail: Array | None = None
) -> Report:
    """The report of a window.

    `predictions` holds, for each digest that `scored` names, that model's predictions of all rows;
    `on_tail` the holdout fit's of the tail rows only. Raises `ScoreInvalid`.
    """
    state, roles = opening(case), scored(case)
    length = _cluster_length(case)
    clusters = cluster_starts(rows.timestamp, case.window.start, length)
    by_digest = {d: _losses(case, rows.label, predictions[d]) for d in set(roles.values())}
    losses = {role: by_digest[digest] for role, digest in roles.items()}
    holdout = _holdout_losses(case, rows, on_tail)
    facts = _facts(case, state, by_digest, clusters, rows.tail, holdout)
    verdict = gate.decide(state, case.spec.gate, facts)
    champion, objective = predictions[state.champion], case.spec.objective
    carried = case.previous.state if case.previous else gate.start(case.initial)
    return Report(
        model=case.model, window=case.window.key, line=case.candidate.line,
        policy=case.spec.gate.policy, verdict=verdict.verdict, reasons=verdict.reasons,
        inputs=case.inputs, entries=case.entries, ledger_seq=_ledger_seq(case),
        state_before=_seats(carried), judged=_seats(state), state=verdict.state,
        models=_models(case, roles),
        rows=len(rows.label), timestamps=case.timestamps,
        clusters=len(np.unique(clusters)), cluster_length=length,
        tail_rows=0 if holdout is None else len(holdout),
        base_rate=_mean(rows.label) if objective == "binary" else None,
        losses=_mean_losses(case, rows, losses, holdout),
        comparisons=verdict.comparisons,
        auc=scoring.auc(rows.label, champion) if objective == "binary" else None,
        calibration=scoring.calibration(objective, rows.label, champion),
        slices=_slices(case, rows, losses),
        pairing=_pairing(case, rows, champion, clusters),
        running=_running(case.previous, losses),
        gate=case.spec.gate.model_dump(mode="json"),
    )  # fmt: skip


def _ledger_seq(case: Case) -> int:
    before = case.previous.ledger_seq if case.previous else -1
    return max([before, *(entry.seq for entry in case.entries)])


def _losses(case: Case, label: Array, prediction: Array) -> Array:
    parameters = case.spec.learner.parameters
    return scoring.row_losses(case.spec.objective, label, prediction, parameters)


def _cluster_length(case: Case) -> int:
    """Milliseconds: `gate.cluster`, by default the smaller of an hour and 1/24 of the window."""
    told = case.spec.gate.cluster
    return told or min(HOUR, (case.window.end - case.window.start) // 24)


def _holdout_losses(case: Case, rows: Rows, on_tail: Array | None) -> Array | None:
    holdout = case.candidate.holdout
    if holdout is None:
        return None
    if rows.tail is None or on_tail is None:
        raise ScoreInvalid(
            f"The holdout fit {gate.short(holdout)} of window {case.window.key} has no predictions "
            "of the tail.",
            "Score it on the rows that it has not seen.",
        )
    return _losses(case, rows.label[rows.tail], on_tail)


def _facts(
    case: Case,
    state: GateState,
    losses: Mapping[str, Array],
    clusters: npt.NDArray[np.int64],
    tail: npt.NDArray[np.bool_] | None,
    holdout: Array | None,
) -> Facts:
    candidate, on_tail = case.candidate, None
    pair = gate.judged(state, case.spec.gate, candidate.parent)
    on_window = gather(losses[pair.reference], losses[pair.challenger], clusters) if pair else None
    if tail is not None and holdout is not None:
        on_tail = gather(losses[state.champion][tail], holdout, clusters[tail])
    return Facts(
        case.window.key, candidate.digest, candidate.parent, candidate.holdout, on_window, on_tail
    )


def _mean(values: Array) -> float | None:
    return float(values.mean()) if len(values) else None


def _mean_losses(
    case: Case, rows: Rows, losses: Mapping[str, Array], holdout: Array | None
) -> dict[str, float | None]:
    parameters = case.spec.learner.parameters
    means = {role: _mean(loss) for role, loss in losses.items()}
    means["prior"] = scoring.constant_prior(case.spec.objective, rows.label, parameters)
    tail = losses["champion"][rows.tail] if rows.tail is not None else None
    means["champion_on_tail"] = None if tail is None else _mean(tail)
    means["holdout_on_tail"] = None if holdout is None else _mean(holdout)
    return means


def _models(case: Case, roles: Mapping[str, str]) -> dict[str, Role]:
    named = dict(roles) | {"candidate": case.candidate.digest}
    if case.candidate.holdout is not None:
        named["holdout"] = case.candidate.holdout
    return {role: Role(digest, case.ages.get(digest)) for role, digest in named.items()}


def _seats(state: GateState) -> Seats:
    return Seats(state.champion, state.baseline, state.mode, len(state.pool))


def _slices(case: Case, rows: Rows, losses: Mapping[str, Array]) -> tuple[Slice, ...]:
    found: list[Slice] = []
    for name in case.spec.gate.slices:
        found += scoring.losses_by_slice(name, rows.slices[name], losses)
    return tuple(found)


def _pairing(case: Case, rows: Rows, champion: Array, clusters: npt.NDArray[np.int64]) -> Pairing:
    seed = int(canonical.digest(f"{case.model}/{case.window.key}".encode())[:16], 16)
    parameters, objective = case.spec.learner.parameters, case.spec.objective
    skill = scoring.pairing_skill(objective, rows.label, champion, clusters, parameters, seed)
    asked = case.spec.gate
    few = skill.n < asked.min_rows or skill.clusters < asked.min_clusters or skill.t is None
    return Pairing(skill, None if few or skill.t is None else skill.t < scoring.PAIRING_ALARM)


def _running(previous: Report | None, losses: Mapping[str, Array]) -> Running:
    so_far = previous.running if previous else Running()
    sums = {role: so_far.sums.get(role, 0.0) + float(loss.sum()) for role, loss in losses.items()}
    return Running(so_far.rows + len(losses["champion"]), sums)
