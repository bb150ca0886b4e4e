"""All named errors: what is wrong, where, and what to do about it."""

BUNDLE_REMEDY = (
    "Restore the bundle from a backup, or recreate it with `tidemill verify MODEL --recompute`."
)


class TidemillError(Exception):
    """The base of all named errors.

    `message` says what is wrong and where, in one sentence; `remedy` says what to do about it.
    """

    def __init__(self, message: str, remedy: str) -> None:
        super().__init__(message, remedy)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message} {self.remedy}"


# User input.


class SpecInvalid(TidemillError):
    """A `defs.yaml`, a setting, or a file named by one of them is not valid."""


class UnknownModel(TidemillError):
    """No model of that name is defined."""


class UnknownWindow(TidemillError):
    """A window key is malformed, or is not a window of the model."""


class PrerequisiteMissing(TidemillError):
    """Something that this machine needs is missing."""


class OperationNotAllowed(TidemillError):
    """The requested operation is not allowed now."""


# The log.


class LogUnavailable(TidemillError):
    """Kafka did not answer within the timeout."""


class TopicMissing(TidemillError):
    """The topic does not exist."""


class TopicRecreated(TidemillError):
    """The topic's id or name differs from that in the plans."""


class TopicCompacted(TidemillError):
    """The topic is compacted, so records disappear from planned ranges."""


class OffsetsExpired(TidemillError):
    """Retention has deleted offsets that a plan still needs."""


class LogTruncated(TidemillError):
    """The log ends before an offset that was already planned."""


class DataLost(TidemillError):
    """Committed bytes are damaged, and the log no longer holds the records they were made from."""


# Windows and batches.


class WindowOpen(TidemillError):
    """The log has not advanced far enough to close the window."""


class PredecessorMissing(TidemillError):
    """A step needs a result of an earlier window that is missing."""


class PlanLost(TidemillError):
    """A plan that must exist is missing; it is never planned again."""


class TooManyRejects(TidemillError):
    """More of a window's records than the allowed share cannot be used."""


class SchemaBroken(TidemillError):
    """A declared field has disappeared from the topic or changed its type."""


class RowInvalid(TidemillError):
    """A row sent for prediction does not match the model's fields."""


# Serving.


class RequestInvalid(TidemillError):
    """A request does not follow its protocol."""


class RequestTooLarge(TidemillError):
    """A request exceeds the server's limit of bytes, chunks or rows."""


class RequestTooSlow(TidemillError):
    """The body of a request did not arrive in time."""


class Unauthorized(TidemillError):
    """A request does not have the server's token."""


class NotServed(TidemillError):
    """A model is defined, but none of its deployments could be taken into service yet."""


class RequestsFailed(TidemillError):
    """Requests to a prediction server failed or had invalid responses."""


class ServiceFailed(TidemillError):
    """A service of `tidemill up` does not start, or does not keep running."""


# Models.


class LineageChanged(TidemillError):
    """The learning spec differs from that of the lineage."""


class ParentInvalid(TidemillError):
    """The model to continue from is missing, or does not match its digest."""


class DigestMismatch(TidemillError):
    """Stored bytes differ from those that were committed."""


class FormatUnsupported(TidemillError):
    """A stored record has a format number that this version does not read."""


class FeatureSkew(TidemillError):
    """A bundle does not reproduce its golden rows, or its feature function has changed."""


class BundleInvalid(TidemillError):
    """A bundle cannot be loaded and validated."""


class ModelPruned(TidemillError):
    """The model was deleted because of `retention_windows`."""


class ScoreInvalid(TidemillError):
    """Labels and predictions do not match in shape, or have no finite loss."""


# Writers.


class AlreadyRunning(TidemillError):
    """Another run of the same model holds the lock."""


class LedgerMisconfigured(TidemillError):
    """The ledger topic may lose or rewrite entries."""


class LedgerLost(TidemillError):
    """The ledger topic no longer holds entries that it once held."""


class LedgerBroken(TidemillError):
    """An entry was edited, removed or reordered."""


class StoreFull(TidemillError):
    """The store has no space for the bytes."""


class StoreFailed(TidemillError):
    """The disk did not confirm that the bytes are durable."""


class StoreUnavailable(TidemillError):
    """The store's storage timed out, denied access, or does not support conditional writes."""


class InstanceUnavailable(TidemillError):
    """Dagster's database could not be read or written."""


class TrackerUnavailable(TidemillError):
    """The tracker could not be read or written in time."""


class AlertFailed(TidemillError):
    """An alert could not be delivered."""


class VerificationFailed(TidemillError):
    """Stored data differ from what the rules make of their inputs."""
