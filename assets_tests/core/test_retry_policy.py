"""A failed window is retried with growing delays, and then left to an operator."""

import pytest

from support.error_classes import leaf_errors
from tidemill.core.errors import LedgerError, TidemillError, TopicMissing
from tidemill.core.retry_policy import (
    CANCELED,
    INITIAL_BACKOFF_MS,
    MAX_ATTEMPTS,
    FailureState,
    WindowFailure,
    next_state,
)

MINUTE = 60_000
NON_RETRYABLE = {
    *("SpecInvalid", "UnknownWindow", "PrerequisiteMissing", "OperationNotAllowed"),
    *("TopicRecreated", "TopicCompacted", "OffsetsExpired", "LogTruncated", "DataLost"),
    *("PlanLost", "TooManyRejects", "SchemaBroken"),
    *("LineageChanged", "ParentInvalid", "DigestMismatch", "FeatureSkew", "ModelPruned"),
    *("LedgerMisconfigured", "LedgerLost", "LedgerBroken", "FormatUnsupported"),
}
EXPECTED_OUTCOMES = {"WindowOpen", "AlreadyRunning"}


def failure_state(attempts: int, error: str = "LogUnavailable") -> FailureState:
    state: FailureState | None = None
    for _ in range(attempts):
        state = next_state(state, WindowFailure("w", error, "It broke."), 1_000, "as it is")
    assert state is not None
    return state


def test_each_delay_is_twice_the_previous_one() -> None:
    waits = [failure_state(attempts).next_attempt_ms - 1_000 for attempts in range(1, MAX_ATTEMPTS)]
    assert waits == [MINUTE, 2 * MINUTE, 4 * MINUTE, 8 * MINUTE]
    assert waits[0] == INITIAL_BACKOFF_MS


def test_the_last_attempt_gives_the_window_up() -> None:
    assert not failure_state(MAX_ATTEMPTS - 1).given_up
    assert failure_state(MAX_ATTEMPTS).given_up
    assert str(failure_state(MAX_ATTEMPTS)) == "Window w failed 5 times: It broke."


@pytest.mark.parametrize("error", sorted(NON_RETRYABLE | {CANCELED}))
def test_an_error_that_needs_an_operator_is_given_up_at_once(error: str) -> None:
    assert failure_state(1, error).given_up


@pytest.mark.parametrize("error", sorted(EXPECTED_OUTCOMES))
def test_an_open_or_locked_window_is_not_a_failure(error: str) -> None:
    assert (
        next_state(failure_state(2), WindowFailure("w", error, "Not now."), 2_000, "as it is")
        is None
    )


def test_another_window_starts_with_its_first_attempt() -> None:
    state = next_state(
        failure_state(3), WindowFailure("v", "LogUnavailable", "It broke."), 2_000, "as it is"
    )
    assert state is not None
    assert (state.window, state.attempts, state.failed_at_ms) == ("v", 1, 2_000)


def test_each_error_says_whether_it_is_retryable_and_whether_it_is_a_failure() -> None:
    kinds = leaf_errors()
    assert {name for name, kind in kinds.items() if not kind.retryable} == NON_RETRYABLE
    assert {name for name, kind in kinds.items() if kind.expected} == EXPECTED_OUTCOMES


def test_an_error_inherits_from_its_family_and_may_differ() -> None:
    class LedgerForked(LedgerError):
        pass

    assert (TidemillError.retryable, TidemillError.expected) == (True, False)
    assert not LedgerForked.retryable
    assert TopicMissing.retryable


@pytest.mark.parametrize("error", ["ValueError", "RunLost", "Unnamed", "ClassVar", "__name__"])
def test_an_error_without_a_class_is_retried(error: str) -> None:
    assert not failure_state(1, error).given_up
