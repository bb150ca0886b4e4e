"""What a failed window calls for: another try after a while, or a person."""

from dataclasses import dataclass

FIRST_WAIT = 60_000
"""Milliseconds from a window's first failure to the second try; each wait is twice the last."""
ATTEMPTS = 5
"""Tries after which a window is given up."""

FOR_A_PERSON = frozenset(
    {
        "SpecInvalid", "UnknownWindow", "PrerequisiteMissing", "Refused",
        "TopicRecreated", "TopicCompacted", "OffsetsExpired", "LogTruncated", "DataLost",
        "PlanLost", "TooManyRejects", "SchemaBroken",
        "LineChanged", "ParentDigest", "DigestMismatch", "FeatureSkew", "ModelPruned",
        "LedgerMisconfigured", "LedgerLost", "LedgerBroken", "Canceled",
    }
)  # fmt: skip
"""Faults that another try cannot mend."""
NO_FAILURE = frozenset({"WindowOpen", "AlreadyRunning"})
"""Named ends of a run that only say: not now."""


@dataclass(frozen=True)
class Failure:
    """How a run ended: the window and the fault by name, and the sentence with its remedy."""

    window: str
    error: str
    told: str


@dataclass(frozen=True)
class Trouble:
    """A window that failed `attempts` times, the last time at `at` (milliseconds since 1970).

    `situation` is a digest of all that a person may change about it: another one means that the
    window is worth trying again.
    """

    window: str
    error: str
    told: str
    attempts: int
    at: int
    situation: str

    @property
    def given_up(self) -> bool:
        return self.error in FOR_A_PERSON or self.attempts >= ATTEMPTS

    @property
    def next_at(self) -> int:
        """When to try again, in milliseconds since 1970."""
        wait: int = FIRST_WAIT * 2 ** (self.attempts - 1)
        return self.at + wait

    def __str__(self) -> str:
        return f"Window {self.window} failed {self.attempts} times: {self.told}"


def after(before: Trouble | None, failure: Failure, now: int, situation: str) -> Trouble | None:
    """What is known after one more failure; None where it is none."""
    if failure.error in NO_FAILURE:
        return None
    again = before is not None and before.window == failure.window
    attempts = before.attempts + 1 if before is not None and again else 1
    return Trouble(failure.window, failure.error, failure.told, attempts, now, situation)
