"""What the steps commit: the manifest of a batch, a candidate, the initial model."""

from dataclasses import dataclass, field
from typing import Any, Literal

from tidemill.core.event_log import TimestampCounts


@dataclass(frozen=True)
class FileRef:
    """A file of the store by its name, sha256 and size in bytes."""

    name: str
    sha256: str
    size: int


@dataclass(frozen=True)
class SkipDecision:
    """Who decided that a window is not learned, and why."""

    actor: str
    reason: str


@dataclass(frozen=True)
class Manifest:
    """What a batch holds. `rows + rejected + gaps` is the number of offsets in its plan.

    `plan` is the sha256 of the plan (or of the file of historical data). `late` and `ahead` count
    rows with event time before the window's start and at or after its end. `timestamps` counts
    all its records by the kind of their time. `missing` counts, for each field, the rows without
    it. `rows_digest` is of the rows' values, whatever wrote the file.
    """

    model: str
    window: str
    epoch: int
    plan: str
    rows: int
    rejected: int
    gaps: int
    late: int
    early: int
    timestamps: TimestampCounts
    missing: dict[str, int]
    reasons: dict[str, int]
    rows_file: FileRef | None
    rejected_file: FileRef | None
    rows_digest: str
    skipped: SkipDecision | None = None
    libraries: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Lineage:
    """A chain of candidates under one learning spec; its id is the sha256 of this record."""

    learning_spec: dict[str, Any]
    parent: str
    first_window: str


@dataclass(frozen=True)
class Adoption:
    """From `window` on, the model goes on under this line, on this topic; who decided it, and why.

    Only one of both need be another than before. `epoch` is that of the plans from `window` on.
    """

    model: str
    window: str
    lineage: Lineage
    topic: str
    cluster_id: str
    topic_id: str
    epoch: int
    actor: str
    reason: str


@dataclass(frozen=True)
class Sample:
    """The replay sample: a snapshot, and the windows whose batches came after it."""

    snapshot: FileRef
    windows_since: tuple[str, ...] = ()


@dataclass(frozen=True)
class InitialModel:
    """The initial model: what it was trained on, under which learning spec, and its digest.

    `data_end` is the first window's start in milliseconds: no row is later.
    """

    model: str
    batch: str
    learning_spec: dict[str, Any]
    digest: str
    num_iterations: int
    tree_digest: str
    rows: int
    data_end_ms: int
    sample: Sample
    libraries: dict[str, str]


@dataclass(frozen=True)
class Candidate:
    """The model after learning from one window.

    `batch` is the sha256 of the batch's manifest, `parent` and `digest` are bundles, `holdout` is
    the sibling that learned from the first 80 % of the window (None where there are too few rows)
    and `tail_rows` counts the rows it did not see. `since_retrain` counts windows.
    """

    model: str
    lineage: str
    window: str
    kind: Literal["continue", "retrain", "carry"]
    batch: str
    parent: str
    digest: str
    num_iterations: int
    tree_digest: str
    holdout: str | None
    tail_rows: int
    since_retrain: int
    sample: Sample
    seed: int
    libraries: dict[str, str]


@dataclass(frozen=True)
class PruneMarker:
    """How far back the store was pruned: nothing up to the window `start` need be there.

    `start` made the model and the snapshot that later windows go on from, and `end` is its end in
    milliseconds. `gone` are the names that this mark was for, `held` those that were spared for the
    gate and may go with a later mark.
    """

    window: str
    window_end_ms: int
    deleted: tuple[str, ...]
    retained: tuple[str, ...]
