"""Every fault that has a name: what is wrong, where, and what mends it."""


class TidemillError(Exception):
    """The base of all named faults.

    `what` names the thing and the place in one sentence; `remedy` says what to do about it.
    """

    def __init__(self, message: str, remedy: str) -> None:
        super().__init__(message, remedy)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message} {self.remedy}"


# What the user wrote.


class SpecInvalid(TidemillError):
    """A `defs.yaml` or a setting is wrong."""


class UnknownModel(TidemillError):
    """No model of that name is defined."""


class UnknownWindow(TidemillError):
    """A window key is malformed, or names no window of the model."""


class PrerequisiteMissing(TidemillError):
    """Something this machine needs is not there."""


class OperationNotAllowed(TidemillError):
    """A command asks for something that the rules do not allow now."""


# The log.


class LogUnavailable(TidemillError):
    """Kafka did not answer within its time budget."""


class TopicMissing(TidemillError):
    """The topic does not exist."""


class TopicRecreated(TidemillError):
    """The topic is not the one the plans were made on: it has another id, or another name."""


class TopicCompacted(TidemillError):
    """The topic is compacted: records vanish from the middle of planned ranges."""


class OffsetsExpired(TidemillError):
    """Retention deleted offsets that a plan still needs."""


class LogTruncated(TidemillError):
    """The log ends before an offset that was already planned."""


class DataLost(TidemillError):
    """Committed bytes are damaged, and the log no longer holds what they were made of."""


# Windows and batches.


class WindowOpen(TidemillError):
    """The log has not come far enough to close the window."""


class PredecessorMissing(TidemillError):
    """A step needs something of an earlier window that is not there."""


class PlanLost(TidemillError):
    """A plan that must exist is gone; it is never planned anew."""


class TooManyRejects(TidemillError):
    """More than the allowed share of a window's records cannot be used."""


class SchemaBroken(TidemillError):
    """A declared field vanished from the stream or changed its type."""


class RowInvalid(TidemillError):
    """A row sent for prediction does not fit the model's fields."""


# Serving.


class RequestInvalid(TidemillError):
    """A request is not what its protocol asks for."""


class RequestTooLarge(TidemillError):
    """A request has more bytes, chunks or rows than the server takes."""


class RequestTooSlow(TidemillError):
    """A request's body did not come in time."""


class Unauthorized(TidemillError):
    """A request does not carry the server's token."""


class NotServed(TidemillError):
    """A model is defined, and no deployment of it could be taken into service yet."""


class RequestsFailed(TidemillError):
    """Requests to a prediction server were not answered as they must be."""


class ServiceFailed(TidemillError):
    """A service of `tidemill up` does not come up, or does not stay up."""


# Models.


class LineageChanged(TidemillError):
    """The learning spec differs from the one the candidate line was begun with."""


class ParentInvalid(TidemillError):
    """The model to continue from is missing or is not what its digest says."""


class DigestMismatch(TidemillError):
    """Stored bytes are not those that were committed."""


class FeatureSkew(TidemillError):
    """A bundle does not reproduce its own golden rows."""


class BundleInvalid(TidemillError):
    """A bundle could not be loaded and proven in a child process."""


class ModelPruned(TidemillError):
    """The model was deleted by `retention_windows`."""


class ScoreInvalid(TidemillError):
    """Labels and predictions do not fit together, or have no finite loss."""


# Writers.


class AlreadyRunning(TidemillError):
    """Another run of the same model holds the lock."""


class LedgerMisconfigured(TidemillError):
    """The ledger topic may lose or rewrite entries."""


class LedgerLost(TidemillError):
    """The ledger topic no longer holds the entries that once stood in it."""


class LedgerBroken(TidemillError):
    """An entry was edited, removed or reordered."""


class StoreFull(TidemillError):
    """The store could not take the bytes."""


class StoreFailed(TidemillError):
    """The disk did not confirm that it keeps the bytes."""


class StoreUnavailable(TidemillError):
    """The store's storage did not answer in its time, or does not let us in."""


class InstanceUnavailable(TidemillError):
    """Dagster's database did not take or give its record of runs."""


class TrackerUnavailable(TidemillError):
    """The tracker did not take or give its record in time."""


class AlertFailed(TidemillError):
    """Nobody took an alert."""


class VerificationFailed(TidemillError):
    """What is stored is not what the rules make of its inputs."""
