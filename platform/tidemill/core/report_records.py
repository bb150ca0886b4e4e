"""What a report holds."""

from dataclasses import dataclass, field
from typing import Any

from tidemill.core.comparison import Comparison
from tidemill.core.evidence import Estimate
from tidemill.core.gate import Decision, GateState, Mode, Taken
from tidemill.core.log import Timestamps
from tidemill.core.scoring import Calibration, Slice


@dataclass(frozen=True)
class Role:
    """A model by what it is here, and its age: the windows since it was made, None if unknown."""

    digest: str
    age: int | None


@dataclass(frozen=True)
class Seats:
    """Who held which place, in which mode, with how many windows in the pool."""

    champion: str
    baseline: str
    mode: Mode
    pooled: int


@dataclass(frozen=True)
class Inputs:
    """sha256 of the records a report was made from; `previous` is the report before, if any."""

    previous: str | None
    batch: str
    candidate: str


@dataclass(frozen=True)
class Pairing:
    """How much better the champion predicts these labels than the same labels shuffled.

    `alarm` is None where there is too little evidence.
    """

    skill: Estimate
    alarm: bool | None


@dataclass(frozen=True)
class Running:
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
    line: str
    policy: str
    verdict: Decision
    reasons: tuple[str, ...]
    inputs: Inputs
    entries: tuple[Taken, ...]
    ledger_seq: int
    state_before: Seats
    judged: Seats
    state: GateState
    models: dict[str, Role]
    rows: int
    timestamps: Timestamps
    clusters: int
    cluster_length: int
    tail_rows: int
    base_rate: float | None
    losses: dict[str, float | None]
    comparisons: tuple[Comparison, ...]
    auc: float | None
    calibration: Calibration | None
    slices: tuple[Slice, ...]
    pairing: Pairing
    running: Running
    gate: dict[str, Any] = field(default_factory=dict)
