"""What to do about a failed window: retry it after a delay, or leave it to an operator."""

from dataclasses import dataclass

INITIAL_BACKOFF_MS = 60_000
"""Milliseconds from a window's first failure to the second attempt; each delay doubles the last."""
MAX_ATTEMPTS = 5
"""Attempts after which a window is given up."""

NON_RETRYABLE = frozenset(
    {
        "SpecInvalid", "UnknownWindow", "PrerequisiteMissing", "OperationNotAllowed",
        "TopicRecreated", "TopicCompacted", "OffsetsExpired", "LogTruncated", "DataLost",
        "PlanLost", "TooManyRejects", "SchemaBroken",
        "LineageChanged", "ParentInvalid", "DigestMismatch", "FeatureSkew", "ModelPruned",
        "LedgerMisconfigured", "LedgerLost", "LedgerBroken", "Canceled",
    }
)  # fmt: skip
"""Errors that a retry cannot fix."""
EXPECTED_OUTCOMES = frozenset({"WindowOpen", "AlreadyRunning"})
"""Errors that are not failures: the window cannot be processed yet."""


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
        return self.error in NON_RETRYABLE or self.attempts >= MAX_ATTEMPTS

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
    if failure.error in EXPECTED_OUTCOMES:
        return None
    repeated = previous is not None and previous.window == failure.window
    attempts = previous.attempts + 1 if previous is not None and repeated else 1
    return FailureState(
        failure.window, failure.error, failure.message, attempts, now_ms, fingerprint
    )
