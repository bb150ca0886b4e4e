"""Records that the steps commit: manifests, candidates, lineages, the initial model."""

from dataclasses import dataclass, field
from typing import Any, Literal

from tidemill.core.canonical import FORMAT
from tidemill.core.event_log import TimestampCounts

UpdateKind = Literal["continue", "retrain", "carry"]


@dataclass(frozen=True)
class FileRef:
    """A file in the store: its name, sha256 and size in bytes."""

    name: str
    sha256: str
    size: int


@dataclass(frozen=True)
class SkipDecision:
    """Who decided that a window is not learned, and for what reason."""

    actor: str
    reason: str


@dataclass(frozen=True)
class Manifest:
    """The contents of a batch. `rows + rejected + gaps` is the number of offsets in its plan.

    `plan` is the sha256 of the plan (or of the file of historical data). `late` and `early` count
    rows with event time before the window's start and at or after its end. `timestamps` counts
    all records by the kind of their timestamp. `missing` counts the rows without each field.
    `rows_digest` covers the rows' values and does not depend on the library that wrote the file.
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
    format: int = FORMAT

    @property
    def files(self) -> tuple[FileRef, ...]:
        """The files of the batch: rows and rejected records; none for a kind without records."""
        return tuple(ref for ref in (self.rows_file, self.rejected_file) if ref is not None)


@dataclass(frozen=True)
class Lineage:
    """A chain of candidates under one learning spec; its id is the sha256 of this record."""

    learning_spec: dict[str, Any]
    parent: str
    first_window: str
    format: int = FORMAT


@dataclass(frozen=True)
class Adoption:
    """From `window` on, the model continues under this lineage, on this topic; by whom, and why.

    At least one of the two has changed. `epoch` is that of the plans from `window` on.
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
    format: int = FORMAT


@dataclass(frozen=True)
class Sample:
    """The replay sample: a snapshot, and the windows whose batches have been added since."""

    snapshot: FileRef
    windows_since: tuple[str, ...] = ()


@dataclass(frozen=True)
class InitialModel:
    """The initial model: its training data, its learning spec and its digest.

    `data_end_ms` is the first window's start in milliseconds since 1970; all rows are earlier.
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
    format: int = FORMAT

    @property
    def since_retrain(self) -> int:
        """The number of windows since its trees were trained from scratch, as of a candidate."""
        return 0


@dataclass(frozen=True)
class Candidate:
    """The model after learning from one window.

    `batch` is the sha256 of the batch's manifest, `parent` and `digest` are bundles, `holdout` is
    the holdout fit, trained on the first 80 % of the window (None if there are too few rows), and
    `tail_rows` counts the rows that it has not seen. `since_retrain` counts windows.
    """

    model: str
    lineage: str
    window: str
    kind: UpdateKind
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
    format: int = FORMAT

    @property
    def bundles(self) -> tuple[str, ...]:
        """The digests of the candidate's model and, if there is one, of its holdout fit."""
        return tuple(digest for digest in (self.digest, self.holdout) if digest is not None)


@dataclass(frozen=True)
class PruneMarker:
    """How far the store was pruned: files of the windows up to `window` may be missing.

    `window` produced the model and the snapshot from which later windows continue;
    `window_end_ms` is its end in milliseconds since 1970. `deleted` are the names that this marker
    covers, `retained` those that the gate still needs and that a later marker may cover.
    """

    window: str
    window_end_ms: int
    deleted: tuple[str, ...]
    retained: tuple[str, ...]
    format: int = FORMAT


@dataclass(frozen=True)
class LedgerTopicRecord:
    """Which topic holds the ledger entries that are copied in the store."""

    cluster_id: str
    topic_id: str
    format: int = FORMAT
