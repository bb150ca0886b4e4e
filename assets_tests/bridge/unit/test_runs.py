"""By what identity a run is asked for, and what is read of its end."""

from dataclasses import replace

import pytest

from tidemill_airflow.graphql import parse_errors
from tidemill_airflow.runs import (
    LOST_LAUNCH_SECONDS,
    Attempt,
    Run,
    RunError,
    RunStatus,
    TaskIdentity,
    oldest_and_duplicates,
    retryable_error,
)

IDENTITY = TaskIdentity("dag", "run", "task", -1, try_number=1, clear_marker="2/2")


def test_only_three_statuses_are_an_end_and_an_unknown_one_is_none() -> None:
    ends = {status for status in RunStatus if status.is_terminal}
    assert ends == {RunStatus.SUCCESS, RunStatus.FAILURE, RunStatus.CANCELED}
    assert RunStatus.from_name("SOMETHING_NEW") is RunStatus.UNKNOWN
    assert not RunStatus.from_name("SOMETHING_NEW").is_terminal


@pytest.mark.parametrize(
    "other",
    [
        {"dag_id": "dag2"}, {"run_id": "run2"}, {"task_id": "task2"}, {"map_index": 0},
        {"try_number": 4},
    ],
)  # fmt: skip
def test_no_two_places_have_one_key(other: dict[str, object]) -> None:
    assert Attempt.first(replace(IDENTITY, **other), 0.0).key != Attempt.first(IDENTITY, 0.0).key


def test_a_name_cannot_be_split_into_another_place() -> None:
    one, two = (
        replace(IDENTITY, dag_id="a", run_id='b","c'),
        replace(IDENTITY, dag_id='a","b', run_id="c"),
    )
    assert Attempt.first(one, 0.0).key != Attempt.first(two, 0.0).key


def test_an_attempt_is_the_same_after_it_was_stored() -> None:
    attempt = Attempt.first(IDENTITY, 12.5).next_attempt(13.5).completed()
    assert Attempt.from_json(attempt.to_json()) == attempt
    assert Attempt.from_json(None) is None


def test_a_retry_goes_on_and_a_clear_after_the_success_begins_anew() -> None:
    attempt = Attempt.first(IDENTITY, 0.0)
    retried = replace(IDENTITY, try_number=2)
    cleared = replace(IDENTITY, try_number=2, lives="3/2")
    assert attempt.is_current(retried)
    assert attempt.is_current(cleared)  # its run may still be at work
    assert attempt.completed().is_current(
        retried
    )  # it died after the success, before it could say so
    assert not attempt.completed().is_current(cleared)


def test_a_lost_launch_settles() -> None:
    attempt = Attempt.first(IDENTITY, 100.0)
    assert attempt.lost_launch_seconds_left(100.0) == LOST_LAUNCH_SECONDS
    assert attempt.lost_launch_seconds_left(100.0 + LOST_LAUNCH_SECONDS) == 0.0
    assert attempt.relaunched(150.0).lost_launch_seconds_left(150.0) == LOST_LAUNCH_SECONDS


def test_of_two_runs_under_one_ask_the_first_counts() -> None:
    runs = [Run("b", RunStatus.STARTED, 2.0), Run("a", RunStatus.STARTED, 1.0)]
    assert oldest_and_duplicates(runs) == (runs[1], [runs[0]])
    assert oldest_and_duplicates([]) == (None, [])


def test_a_run_that_nobody_starts_is_stuck_after_a_minute() -> None:
    run = Run("a", RunStatus.NOT_STARTED, 100.0)
    assert not run.is_stuck(159.0)
    assert run.is_stuck(161.0)
    assert not Run("a", RunStatus.NOT_STARTED).is_stuck(10_000.0)  # nobody told since when
    assert not Run("a", RunStatus.QUEUED, 100.0).is_stuck(10_000.0)  # a queue may be long


def step_failure(name: str | None, text: str) -> dict[str, object]:
    entries = [{"label": "error", "text": name}] if name else []
    metadata = {"description": text, "metadataEntries": entries}
    return {"__typename": "ExecutionStepFailureEvent", "stepKey": "s", "failureMetadata": metadata}


def test_a_run_is_followed_only_where_it_failed_of_nothing_else() -> None:
    open_, broken = RunError("WindowOpen", "open"), RunError("SchemaBroken", "broken")
    assert retryable_error([open_], ["WindowOpen"]) == open_
    assert retryable_error([open_, broken], ["WindowOpen"]) is None
    assert retryable_error([open_, RunError(None, "also")], ["WindowOpen"]) is None
    assert retryable_error([broken], ["WindowOpen"]) is None
    assert retryable_error([], ["WindowOpen"]) is None
    assert retryable_error([open_], []) is None


def test_the_errors_of_a_run_are_its_steps_or_else_its_own() -> None:
    ended = {"__typename": "RunFailureEvent", "message": "it died", "error": None}
    assert parse_errors([step_failure("WindowOpen", "open"), ended]) == [
        RunError("WindowOpen", "open")
    ]
    assert parse_errors([ended]) == [RunError(None, "it died")]
    plain = {
        "__typename": "ExecutionStepFailureEvent",
        "stepKey": "s",
        "error": {"message": "ZeroDivisionError"},
        "failureMetadata": None,
    }
    assert parse_errors([plain]) == [RunError(None, "Step s: ZeroDivisionError")]
