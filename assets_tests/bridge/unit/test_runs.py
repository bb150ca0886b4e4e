"""The identity of a run, and the parsing of its errors."""

from dataclasses import replace

import pytest

from tidemill_airflow.graphql import parse_errors
from tidemill_airflow.runs import (
    Attempt,
    Run,
    RunError,
    RunStatus,
    TaskIdentity,
    Timing,
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
def test_different_tasks_have_different_keys(other: dict[str, object]) -> None:
    assert Attempt.first(replace(IDENTITY, **other), 0.0).key != Attempt.first(IDENTITY, 0.0).key


def test_a_key_does_not_depend_on_how_names_could_be_split() -> None:
    one, two = (
        replace(IDENTITY, dag_id="a", run_id='b","c'),
        replace(IDENTITY, dag_id='a","b', run_id="c"),
    )
    assert Attempt.first(one, 0.0).key != Attempt.first(two, 0.0).key


def test_an_attempt_survives_storage_unchanged() -> None:
    attempt = Attempt.first(IDENTITY, 12.5).next_attempt(13.5).completed()
    assert Attempt.from_json(attempt.to_json()) == attempt
    assert Attempt.from_json(None) is None


def test_a_retry_resumes_and_a_clear_after_a_success_starts_over() -> None:
    attempt = Attempt.first(IDENTITY, 0.0)
    retried = replace(IDENTITY, try_number=2)
    cleared = replace(IDENTITY, try_number=2, clear_marker="3/2")
    assert attempt.is_current(retried)
    assert attempt.is_current(cleared)  # its run may still be active
    assert attempt.completed().is_current(
        retried
    )  # killed after the success, before it could report it
    assert not attempt.completed().is_current(cleared)


def test_a_lost_launch_expires() -> None:
    attempt = Attempt.first(IDENTITY, 100.0)
    lost_launch = Timing().lost_launch
    assert attempt.lost_launch_seconds_left(100.0, lost_launch) == lost_launch
    assert attempt.lost_launch_seconds_left(100.0 + lost_launch, lost_launch) == 0.0
    relaunched = attempt.relaunched(150.0)
    assert relaunched.lost_launch_seconds_left(150.0, lost_launch) == lost_launch


def test_the_oldest_run_of_an_attempt_counts() -> None:
    runs = [Run("b", RunStatus.STARTED, 2.0), Run("a", RunStatus.STARTED, 1.0)]
    assert oldest_and_duplicates(runs) == (runs[1], [runs[0]])
    assert oldest_and_duplicates([]) == (None, [])


def test_an_unstarted_run_is_stuck_after_a_minute() -> None:
    run = Run("a", RunStatus.NOT_STARTED, 100.0)
    stuck_after = Timing().stuck_after
    assert not run.is_stuck(159.0, stuck_after)
    assert run.is_stuck(161.0, stuck_after)
    assert not Run("a", RunStatus.NOT_STARTED).is_stuck(10_000.0, stuck_after)  # of unknown age
    queued = Run("a", RunStatus.QUEUED, 100.0)
    assert not queued.is_stuck(10_000.0, stuck_after)  # it may wait in the queue for long


def step_failure(name: str | None, text: str) -> dict[str, object]:
    entries = [{"label": "error", "text": name}] if name else []
    metadata = {"description": text, "metadataEntries": entries}
    return {"__typename": "ExecutionStepFailureEvent", "stepKey": "s", "failureMetadata": metadata}


def test_a_run_is_retried_only_if_all_its_errors_are_retryable() -> None:
    open_, broken = RunError("WindowOpen", "open"), RunError("SchemaBroken", "broken")
    assert retryable_error([open_], ["WindowOpen"]) == open_
    assert retryable_error([open_, broken], ["WindowOpen"]) is None
    assert retryable_error([open_, RunError(None, "also")], ["WindowOpen"]) is None
    assert retryable_error([broken], ["WindowOpen"]) is None
    assert retryable_error([], ["WindowOpen"]) is None
    assert retryable_error([open_], []) is None


def test_the_errors_of_a_run_are_those_of_its_steps_or_else_its_own() -> None:
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
