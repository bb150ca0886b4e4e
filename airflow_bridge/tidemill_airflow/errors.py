"""The errors of the bridge: each says what is wrong and how to fix it."""

from airflow.sdk.exceptions import AirflowException, AirflowFailException


class BridgeError(AirflowException):
    """The base class: `message` says what is wrong, `remedy` what to do about it."""

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(f"{message} {remedy}".strip())
        self.message = message
        self.remedy = remedy


class InvalidInput(BridgeError, AirflowFailException):
    """A DAG or a connection contains an invalid value; a retry would not help."""


class UnknownAsset(InvalidInput):
    """Dagster has no such asset or cannot materialize it, although all its code is loaded."""


class UnknownPartition(InvalidInput):
    """The asset has no such partition."""


class DagsterRejected(BridgeError):
    """Dagster responded with an error."""


class DagsterUnreachable(BridgeError):
    """No server listens, or the code location is not loaded. The request had no effect."""


class ResponseLost(BridgeError):
    """The request may have been processed, but no response was received."""


class RunFailed(BridgeError):
    """The Dagster run failed or was canceled; its own errors are in the message."""


class RunTimeout(BridgeError):
    """The time limit has expired. A Dagster run that was still active is terminated."""
