"""What a failed window calls for: another try after a while, or a person."""

from dataclasses import dataclass

INITIAL_BACKOFF_MS = 60_000
"""Milliseconds from a window's first failure to the second try; each wait is twice the last."""
MAX_ATTEMPTS = 5
"""Tries after which a window is given up."""

NON_RETRYABLE = frozenset(
    {
        "SpecInvalid", "UnknownWindow", "PrerequisiteMissing", "Refused",
        "TopicRecreated", "TopicCompacted", "OffsetsExpired", "LogTruncated", "DataLost",
        "PlanLost", "TooManyRejects", "SchemaBroken",
        "LineChanged", "ParentDigest", "DigestMismatch", "FeatureSkew", "ModelPruned",
        "LedgerMisconfigured", "LedgerLost", "LedgerBroken", "Canceled",
    }
)  # fmt: skip
"""Faults that another try cannot mend."""
EXPECTED_OUTCOMES = frozenset({"WindowOpen", "AlreadyRunning"})
"""Named ends of a run that only say: not now."""


@dataclass(frozen=True)
class WindowFailure:
    """How a run ended: the window and the fault by name, and the sentence with its remedy."""

    window: str
    error: str
    message: str


@dataclass(frozen=True)
class FailureState:
    """A window that failed `attempts` times, the last time at `at` (milliseconds since 1970).

    `situation` is a digest of all that a person may change about it: another one means that the
    window is worth trying again.
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
        """When to try again, in milliseconds since 1970."""
        wait: int = INITIAL_BACKOFF_MS * 2 ** (self.attempts - 1)
        return self.failed_at_ms + wait

    def __str__(self) -> str:
        return f"Window {self.window} failed {self.attempts} times: {self.message}"


def next_state(
    previous: FailureState | None, failure: WindowFailure, now_ms: int, fingerprint: str
) -> FailureState | None:
    """What is known after one more failure; None where it is none."""
    if failure.error in EXPECTED_OUTCOMES:
        return None
    repeated = previous is not None and previous.window == failure.window
    attempts = previous.attempts + 1 if previous is not None and repeated else 1
    return FailureState(
        failure.window, failure.error, failure.message, attempts, now_ms, fingerprint
    )
