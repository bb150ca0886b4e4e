"""What a report holds."""

from dataclasses import dataclass, field
from typing import Any

from tidemill.core.comparison import Comparison
from tidemill.core.event_log import TimestampCounts
from tidemill.core.gate import AppliedEntry, Decision, GateState, Mode
from tidemill.core.loss_differences import Estimate
from tidemill.core.scoring import Calibration, Slice


@dataclass(frozen=True)
class ModelInRole:
    """A model by what it is here, and its age: the windows since it was made, None if unknown."""

    digest: str
    age: int | None


@dataclass(frozen=True)
class GateSnapshot:
    """Who held which place, in which mode, with how many windows in the pool."""

    champion: str
    baseline: str
    mode: Mode
    pool_size: int


@dataclass(frozen=True)
class InputDigests:
    """sha256 of the records a report was made from; `previous` is the report before, if any."""

    previous: str | None
    batch: str
    candidate: str


@dataclass(frozen=True)
class PermutationCheck:
    """How much better the champion predicts these labels than the same labels shuffled.

    `alarm` is None where there is too little evidence.
    """

    estimate: Estimate
    alarm: bool | None


@dataclass(frozen=True)
class CumulativeLosses:
    """Sums of the losses of every row so far: of the champion in service at the time, the baseline
    of the time, the newest candidate of the time and the initial model."""

    rows: int = 0
    sums: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Report:
    """What a window says of the models, and what the gate makes of it.

    `state_before` is what the report before left; `judged` is who was judged, after the persons'
    `entries` were taken; `state` holds from now on. `ledger_seq` is the newest person's entry ever
    taken, -1 for none. `models` and `losses` go by role: `initial`, `champion`, `baseline` (as
    judged), `challenger` (the candidate of the window before), `candidate` and `holdout`; losses
    are means over all rows, `prior` is the best constant in hindsight, `holdout_on_tail` and
    `champion_on_tail` are of the tail. None means that there is no such number. `gate` is the gate
    spec as it was. `timestamps` counts all records of the window, the rejected too, by the kind of
    their time.
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
