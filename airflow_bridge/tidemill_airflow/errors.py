"""Every fault of the bridge that has a name: what is wrong, and what mends it."""

from airflow.sdk.exceptions import AirflowException, AirflowFailException


class BridgeError(AirflowException):
    """The base of all: `what` names the thing, `remedy` says what to do about it."""

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(f"{message} {remedy}".strip())
        self.message = message
        self.remedy = remedy


class InvalidInput(BridgeError, AirflowFailException):
    """A DAG or a connection asks for what cannot be; trying again would not help."""


class UnknownAsset(InvalidInput):
    """Dagster has no such asset, or cannot materialize it, though all its code is loaded."""


class UnknownPartition(InvalidInput):
    """The asset has no such partition."""


class DagsterRejected(BridgeError):
    """Dagster answered, and its answer is no."""


class DagsterUnreachable(BridgeError):
    """Nobody listens there, or the code that is meant is not loaded: what was asked did nothing."""


class ResponseLost(BridgeError):
    """The question may have been heard, but no answer came."""


class RunFailed(BridgeError):
    """The Dagster run failed or was canceled; its own errors are in the message."""


class RunTimeout(BridgeError):
    """The time is over, and the Dagster run was told to stop."""
