"""What to do about a failed window: retry it after a delay, or leave it to an operator."""

from dataclasses import dataclass

from tidemill.core import errors

INITIAL_BACKOFF_MS = 60_000
"""Milliseconds from a window's first failure to the second attempt; each delay doubles the last."""
MAX_ATTEMPTS = 5
"""Attempts after which a window is given up."""

CANCELED = "Canceled"
"""The name under which a canceled run is recorded as a failure; only an operator cancels runs."""


@dataclass(frozen=True)
class WindowFailure:
    """The failure of a run: the window, the name of the error, and its message with the remedy."""

    window: str
    error: str
    message: str


@dataclass(frozen=True)
class FailureState:
    """A window that has failed `attempts` times, the last time at `failed_at_ms` (since 1970).

    `fingerprint` is a digest of everything that an operator may change about it: if it differs,
    the window is worth another attempt.
    """

    window: str
    error: str
    message: str
    attempts: int
    failed_at_ms: int
    fingerprint: str

    @property
    def given_up(self) -> bool:
        """Whether no further attempt follows, unless the fingerprint changes."""
        needs_operator = self.error == CANCELED or not _error_class(self.error).retryable
        return needs_operator or self.attempts >= MAX_ATTEMPTS

    @property
    def next_attempt_ms(self) -> int:
        """The time of the next attempt, in milliseconds since 1970."""
        wait: int = INITIAL_BACKOFF_MS * 2 ** (self.attempts - 1)
        return self.failed_at_ms + wait

    def __str__(self) -> str:
        return f"Window {self.window} failed {self.attempts} times: {self.message}"


def next_state(
    previous: FailureState | None, failure: WindowFailure, now_ms: int, fingerprint: str
) -> FailureState | None:
    """The state after one more failure; None if it is an expected outcome."""
    if _error_class(failure.error).expected:
        return None
    repeated = previous is not None and previous.window == failure.window
    attempts = previous.attempts + 1 if previous is not None and repeated else 1
    return FailureState(
        failure.window, failure.error, failure.message, attempts, now_ms, fingerprint
    )


def _error_class(name: str) -> type[errors.TidemillError]:
    """The class of a named error; `TidemillError`, whose defaults apply, for any other name."""
    kind = getattr(errors, name, None)
    if isinstance(kind, type) and issubclass(kind, errors.TidemillError):
        return kind
    return errors.TidemillError
