"""The records that make up a report."""

from dataclasses import dataclass, field
from typing import Any

from tidemill.core.canonical import FORMAT
from tidemill.core.comparison import Comparison
from tidemill.core.event_log import TimestampCounts
from tidemill.core.gate import AppliedEntry, Decision, GateState, Mode
from tidemill.core.loss_differences import Estimate
from tidemill.core.scoring import Calibration, Slice


@dataclass(frozen=True)
class ModelInRole:
    """The model in a role; `age` is the number of windows since its training, None if unknown."""

    digest: str
    age: int | None


@dataclass(frozen=True)
class GateSnapshot:
    """The gate's state in short: champion, baseline, mode, and number of windows in the pool."""

    champion: str
    baseline: str
    mode: Mode
    pool_size: int


@dataclass(frozen=True)
class InputDigests:
    """sha256 of the records a report was made from; `previous` is the previous report, if any."""

    previous: str | None
    batch: str
    candidate: str


@dataclass(frozen=True)
class PermutationCheck:
    """How much better the champion predicts these labels than the same labels shuffled.

    `alarm` is None if there are too few rows or clusters, or no t.
    """

    estimate: Estimate
    alarm: bool | None


@dataclass(frozen=True)
class CumulativeLosses:
    """Sums of the losses over all rows so far, by role: the initial model, and the champion, the
    baseline and the newest candidate at the time of each window."""

    rows: int = 0
    sums: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Report:
    """The losses of the models on a window, and the gate's decision.

    `previous_state` is the state after the previous report; `opening_state` the state that was
    judged, after the manual `entries` were applied; `state` applies from now on. `ledger_seq` is
    the newest manual entry that was ever applied, -1 for none. The keys of `models` and `losses`
    are roles: `initial`, `champion`, `baseline` (both of `opening_state`), `challenger` (the
    candidate of the previous window), `candidate` and `holdout`. Losses are means over all rows;
    `prior` is the best constant in hindsight; `holdout_on_tail` and `champion_on_tail` are means
    over the tail. None means that a number is undefined. `gate` is the gate spec that was used.
    `timestamps` counts all records of the window, also rejected ones, by the kind of timestamp.
    """

    model: str
    window: str
    lineage: str
    policy: str
    verdict: Decision
    reasons: tuple[str, ...]
    inputs: InputDigests
    entries: tuple[AppliedEntry, ...]
    ledger_seq: int
    previous_state: GateSnapshot
    opening_state: GateSnapshot
    state: GateState
    models: dict[str, ModelInRole]
    rows: int
    timestamps: TimestampCounts
    clusters: int
    cluster_length: int
    tail_rows: int
    base_rate: float | None
    losses: dict[str, float | None]
    comparisons: tuple[Comparison, ...]
    auc: float | None
    calibration: Calibration | None
    slices: tuple[Slice, ...]
    permutation_check: PermutationCheck
    cumulative_losses: CumulativeLosses
    gate: dict[str, Any] = field(default_factory=dict)
    format: int = FORMAT
