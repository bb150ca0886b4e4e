"""All named errors, by family: what is wrong, where, and what to do about it."""

from typing import ClassVar

BUNDLE_REMEDY = (
    "Restore the bundle from a backup, or recreate it with `tidemill verify MODEL --recompute`."
)


class TidemillError(Exception):
    """The base of all named errors.

    `message` says what is wrong and where, in one sentence; `remedy` says what to do about it. A
    class with subclasses in this module is a family, to be caught and not raised.
    """

    retryable: ClassVar[bool] = True
    """Whether another attempt may succeed without an operator; inherited from the family."""
    expected: ClassVar[bool] = False
    """Whether it is not a failure: the window cannot be processed yet."""

    def __init_subclass__(cls, *, retryable: bool | None = None, expected: bool = False) -> None:
        cls.retryable = cls.retryable if retryable is None else retryable
        cls.expected = cls.expected or expected

    def __init__(self, message: str, remedy: str) -> None:
        super().__init__(message, remedy)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message} {self.remedy}"


class SpecError(TidemillError, retryable=False):
    """What a user has written or requested is not possible."""


class SpecInvalid(SpecError):
    """A `defs.yaml`, a setting, or a file named by one of them is not valid."""


class UnknownWindow(SpecError):
    """A window key is malformed, or is not a window of the model."""


class LineageChanged(SpecError):
    """The learning spec differs from that of the lineage."""


class OperationNotAllowed(SpecError):
    """The requested operation is not allowed now."""


class LogError(TidemillError):
    """A topic cannot be read."""


class LogUnavailable(LogError):
    """Kafka did not answer within the timeout."""


class TopicError(LogError, retryable=False):
    """A topic does not hold the records that were planned or read."""


class TopicMissing(TopicError, retryable=True):
    """The topic does not exist."""


class TopicRecreated(TopicError):
    """The topic's id or name differs from that in the plans."""


class TopicCompacted(TopicError):
    """The topic is compacted, so records disappear from planned ranges."""


class OffsetsExpired(TopicError):
    """Retention has deleted offsets that a plan still needs."""


class LogTruncated(TopicError):
    """The log ends before an offset that was already planned."""


class WindowError(TidemillError):
    """A window cannot be processed."""


class WindowOpen(WindowError, expected=True):
    """The log has not advanced far enough to close the window."""


class PredecessorMissing(WindowError):
    """A step needs a result of an earlier window that is missing."""


class TooManyRejects(WindowError, retryable=False):
    """More of a window's records than the allowed share cannot be used."""


class SchemaBroken(WindowError, retryable=False):
    """A declared field has disappeared from the topic or changed its type."""


class ModelError(TidemillError):
    """A model cannot be loaded, continued or scored."""


class ParentInvalid(ModelError, retryable=False):
    """The model to continue from is missing, or does not match its digest."""


class FeatureSkew(ModelError, retryable=False):
    """A bundle does not reproduce its golden rows, or its feature function has changed."""


class BundleInvalid(ModelError):
    """A bundle cannot be loaded and validated."""


class ScoreInvalid(ModelError):
    """Labels and predictions do not match in shape, or have no finite loss."""


class StoreError(TidemillError):
    """The store cannot be read or written, or its contents are wrong."""


class StoreFull(StoreError):
    """The store has no space for the bytes."""


class StoreFailed(StoreError):
    """The disk did not confirm that the bytes are durable."""


class StoreUnavailable(StoreError):
    """The store's storage timed out, denied access, or does not support conditional writes."""


class FormatUnsupported(StoreError, retryable=False):
    """A stored record has a format number that this version does not read."""


class VerificationFailed(StoreError):
    """Stored data differ from what the rules make of their inputs."""


class CommittedDataError(StoreError, retryable=False):
    """Something that was committed is damaged, lost or deleted."""


class DigestMismatch(CommittedDataError):
    """Stored bytes differ from those that were committed."""


class DataLost(CommittedDataError):
    """Committed bytes are damaged, and the log no longer holds the records they were made from."""


class PlanLost(CommittedDataError):
    """A plan that must exist is missing; it is never planned again."""


class ModelPruned(CommittedDataError):
    """The model was deleted because of `retention_windows`."""


class LedgerError(TidemillError, retryable=False):
    """The ledger cannot be trusted."""


class LedgerMisconfigured(LedgerError):
    """The ledger topic may lose or rewrite entries."""


class LedgerLost(LedgerError):
    """The ledger topic no longer holds entries that it once held."""


class LedgerBroken(LedgerError):
    """An entry was edited, removed or reordered."""


class RequestError(TidemillError):
    """A request cannot be answered."""


class RequestInvalid(RequestError):
    """A request does not follow its protocol."""


class RowInvalid(RequestError):
    """A row sent for prediction does not match the model's fields."""


class RequestTooLarge(RequestError):
    """A request exceeds the server's limit of bytes, chunks or rows."""


class RequestTooSlow(RequestError):
    """The body of a request did not arrive in time."""


class Unauthorized(RequestError):
    """A request does not have the server's token."""


class UnknownModel(RequestError):
    """No model of that name is defined."""


class NotServed(RequestError):
    """A model is defined, but none of its deployments could be taken into service yet."""


class ServiceError(TidemillError):
    """A program or service that tidemill works with does not work as needed."""


class PrerequisiteMissing(ServiceError, retryable=False):
    """Something that this machine needs is missing."""


class AlreadyRunning(ServiceError, expected=True):
    """Another run of the same model holds the lock."""


class ServiceFailed(ServiceError):
    """A service of `tidemill up` does not start, or does not keep running."""


class RequestsFailed(ServiceError):
    """Requests to a prediction server failed or had invalid responses."""


class InstanceUnavailable(ServiceError):
    """Dagster's database could not be read or written."""


class TrackerUnavailable(ServiceError):
    """The tracker could not be read or written in time."""


class AlertFailed(ServiceError):
    """An alert could not be delivered."""
