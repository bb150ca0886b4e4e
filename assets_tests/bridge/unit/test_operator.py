"""One task and Dagster: a run is launched once, found again, monitored and terminated."""

import asyncio
import time
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk.exceptions import TaskDeferred

from bridge.unit.fake_dagster import FakeDagster, FakeTaskInstance
from tidemill_airflow.errors import (
    DagsterRejected,
    DagsterUnreachable,
    RunFailed,
    RunTimeout,
    UnknownAsset,
    UnknownPartition,
)
from tidemill_airflow.hooks.dagster import DagsterHook
from tidemill_airflow.operators import launcher
from tidemill_airflow.operators.dagster import MaterializeAssetsOperator
from tidemill_airflow.runs import Timing
from tidemill_airflow.sensors.dagster import PartitionFreshSensor
from tidemill_airflow.triggers import dagster as triggers

OPEN_WINDOW_FAILURE = {
    "__typename": "ExecutionStepFailureEvent",
    "stepKey": "s",
    "failureMetadata": {
        "description": "Window w is still open.",
        "metadataEntries": [{"label": "error", "text": "WindowOpen"}],
    },
}


FAST = Timing(worker_poll_interval=0.01, lost_launch=0.2, min_trigger=0.05)
"""Intervals short enough that no test waits for long."""


def task(**overrides: Any) -> MaterializeAssetsOperator:
    kwargs = {"task_id": "task", "assets": ["m/a"], "timeout": 5.0, "retry_interval": 0.05}
    return MaterializeAssetsOperator(**{**kwargs, "timing": FAST, **overrides})


def run_task(
    task_instance: FakeTaskInstance, event: dict[str, Any] | None = None, **overrides: Any
) -> str:
    """Execute the task to its end, running its deferrals as a triggerer does."""
    operator, context = task(**overrides), task_instance.context()
    try:
        return (
            operator.execute(context)
            if event is None
            else operator.execute_complete(context, event)
        )
    except TaskDeferred as deferred:
        return run_task(
            task_instance, trigger_event(deferred.trigger), **overrides
        )  # as another process does


def trigger_event(trigger: Any) -> dict[str, Any]:
    path, kwargs = trigger.serialize()
    restored = getattr(triggers, path.rsplit(".", 1)[1])(**kwargs)

    async def first() -> dict[str, Any]:
        event = await anext(restored.run())
        return dict(event.payload)

    return asyncio.run(first())


def test_a_run_is_launched_monitored_and_returned(
    dagster: FakeDagster, task_instance: FakeTaskInstance
) -> None:
    assert run_task(task_instance, run_config={"ops": {}}, tags={"team": "sales"}) == "run-1"
    (launch,) = [variables["params"] for name, variables in dagster.requests if name == "Launch"]
    assert launch["runConfigData"] == {"ops": {}}
    assert launch["selector"]["assetSelection"] == [{"path": ["m", "a"]}]
    tags = dagster.runs[0]["tags"]
    assert (tags["team"], tags["airflow/task_id"], tags["airflow/attempt"]) == (
        "sales",
        "task",
        "1",
    )
    assert task_instance.xcoms == {"dagster_run_url": f"{dagster.address}/runs/run-1"}


def test_the_attempt_is_stored_before_the_launch_request(
    dagster: FakeDagster, task_instance: FakeTaskInstance
) -> None:
    dagster.launches = [{"__typename": "UnauthorizedError", "message": "no"}]
    with pytest.raises(DagsterRejected, match="no"):
        run_task(task_instance)
    assert task_instance.store[launcher.STATE_KEY]["number"] == 1
    assert dagster.runs == []


@pytest.mark.parametrize("outcome", ["response_lost", "connection_dropped"])
def test_a_lost_response_launches_no_second_run(
    dagster: FakeDagster, task_instance: FakeTaskInstance, outcome: str
) -> None:
    dagster.launches = [outcome]
    assert run_task(task_instance) == "run-1"
    assert len(dagster.runs) == 1
    assert dagster.operation_names.count("Launch") == (1 if outcome == "response_lost" else 2)


def test_a_retry_resumes_the_run_of_the_previous_try(
    dagster: FakeDagster, task_instance: FakeTaskInstance
) -> None:
    dagster.statuses = [["STARTED"] * 1000]
    with pytest.raises(TaskDeferred):
        task(worker_poll=0.0).execute(task_instance.context())  # as if the worker were killed here
    dagster.runs[0]["remaining"] = ["SUCCESS"]
    task_instance.try_number = 2
    assert run_task(task_instance) == "run-1"
    assert task_instance.xcoms["dagster_run_url"].endswith("/run-1")
    task_instance.try_number = 3  # killed after the success, before Airflow recorded it
    assert run_task(task_instance) == "run-1"
    assert len(dagster.runs) == 1


def test_a_clear_after_a_success_launches_another_run(
    dagster: FakeDagster, task_instance: FakeTaskInstance
) -> None:
    assert run_task(task_instance) == "run-1"
    task_instance.try_number, task_instance.max_tries = 2, 3
    assert run_task(task_instance) == "run-2"
    first, second = (r["tags"]["airflow/idempotency_key"] for r in dagster.runs)
    assert first != second


def test_a_retry_after_a_failed_run_launches_the_next(
    dagster: FakeDagster, task_instance: FakeTaskInstance
) -> None:
    dagster.statuses = [["FAILURE"], ["SUCCESS"]]
    with pytest.raises(RunFailed):
        run_task(task_instance)
    task_instance.try_number = 2
    assert run_task(task_instance) == "run-2"
    first, second = (r["tags"] for r in dagster.runs)
    assert first["airflow/idempotency_key"] == second["airflow/idempotency_key"]
    assert (first["airflow/attempt"], second["airflow/attempt"]) == ("1", "2")


def test_the_log_ends_with_dagsters_own_errors(
    dagster: FakeDagster, task_instance: FakeTaskInstance
) -> None:
    dagster.statuses = [["FAILURE"]]
    dagster.events = [
        {"__typename": "ExecutionStepFailureEvent", "stepKey": "s",
         "error": {"message": "KeyError: 'tide'"}, "failureMetadata": None}
    ]  # fmt: skip
    with pytest.raises(RunFailed) as caught:
        run_task(task_instance)
    assert str(caught.value).endswith("Step s: KeyError: 'tide'")


@pytest.mark.parametrize("deferrable", [True, False])
def test_an_open_window_is_retried_under_the_same_key(
    dagster: FakeDagster, task_instance: FakeTaskInstance, deferrable: bool
) -> None:
    dagster.statuses = [["FAILURE"], ["FAILURE"], ["SUCCESS"]]
    dagster.events = [OPEN_WINDOW_FAILURE]
    assert run_task(task_instance, deferrable=deferrable) == "run-3"
    tags = [r["tags"] for r in dagster.runs]
    assert [t["airflow/attempt"] for t in tags] == ["1", "2", "3"]
    assert len({t["airflow/idempotency_key"] for t in tags}) == 1


def test_an_open_window_is_retried_until_the_timeout(
    dagster: FakeDagster, task_instance: FakeTaskInstance
) -> None:
    dagster.statuses, dagster.events = [["FAILURE"]], [OPEN_WINDOW_FAILURE]
    with pytest.raises(RunTimeout, match="still open"):
        run_task(task_instance, timeout=1.5)
    assert len(dagster.runs) > 1


def test_a_status_that_nobody_knows_is_polled_on(
    dagster: FakeDagster, task_instance: FakeTaskInstance
) -> None:
    dagster.statuses = [["WONDERING"] * 4 + ["SUCCESS"]]
    assert run_task(task_instance, worker_poll=0.0, poll_interval=0.01) == "run-1"
    assert len(dagster.runs) == 1


@pytest.mark.parametrize("worker_poll", [0.0, 10.0])
def test_the_timeout_ends_the_run_deferred_or_not(
    dagster: FakeDagster, task_instance: FakeTaskInstance, worker_poll: float
) -> None:
    dagster.statuses = [["STARTED"]]
    with pytest.raises(RunTimeout):
        run_task(task_instance, timeout=0.3, worker_poll=worker_poll, poll_interval=0.01)
    assert dagster.runs[0]["remaining"] == ["CANCELED"]


def test_a_kill_ends_the_run(dagster: FakeDagster, task_instance: FakeTaskInstance) -> None:
    dagster.statuses = [["STARTED"]]
    operator = task(worker_poll=0.0)
    with pytest.raises(TaskDeferred) as caught:
        operator.execute(task_instance.context())
    operator.on_kill()
    assert dagster.runs[0]["remaining"] == ["CANCELED"]
    dagster.runs[0]["remaining"] = ["STARTED"]
    asyncio.run(caught.value.trigger.on_kill())  # marked failed, or cleared, while deferred
    assert dagster.runs[0]["remaining"] == ["CANCELED"]


def test_a_try_after_a_clear_waits_for_the_canceled_run(
    dagster: FakeDagster, task_instance: FakeTaskInstance
) -> None:
    dagster.statuses = [["STARTED"], ["SUCCESS"]]
    with pytest.raises(TaskDeferred):
        task(worker_poll=0.0).execute(task_instance.context())
    dagster.runs[0]["remaining"] = ["CANCELING", "CANCELING", "CANCELED"]
    task_instance.try_number, task_instance.max_tries = 2, 3
    assert run_task(task_instance) == "run-2"
    assert [r["tags"]["airflow/attempt"] for r in dagster.runs] == ["1", "2"]


def test_a_run_launched_after_the_kill_is_terminated(
    dagster: FakeDagster, task_instance: FakeTaskInstance
) -> None:
    dagster.statuses = [["STARTED"]]
    operator = task(worker_poll=0.0)
    operator.on_kill()
    with pytest.raises(TaskDeferred):
        operator.execute(task_instance.context())
    assert dagster.runs[0]["remaining"] == ["CANCELED"]


def test_a_stuck_run_is_terminated_and_another_one_launched(
    dagster: FakeDagster, task_instance: FakeTaskInstance
) -> None:
    dagster.statuses = [["NOT_STARTED"], ["SUCCESS"]]
    assert run_task(task_instance, timing=replace(FAST, stuck_after=0.1)) == "run-2"
    assert dagster.runs[0]["remaining"] == ["CANCELED"]


def test_requests_are_retried_while_dagster_is_unreachable(
    dagster: FakeDagster, task_instance: FakeTaskInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = 0
    execute = DagsterHook.execute

    def flaky_execute(hook: DagsterHook, document: str, **variables: Any) -> Any:
        nonlocal requests
        requests += 1
        if requests % 2:
            raise DagsterUnreachable("Cannot connect.", "Wait.")
        return execute(hook, document, **variables)

    monkeypatch.setattr(DagsterHook, "execute", flaky_execute)
    assert run_task(task_instance) == "run-1"
    assert len(dagster.runs) == 1


def test_polls_without_a_response_neither_block_the_worker_nor_outlast_the_timeout(
    dagster: FakeDagster, task_instance: FakeTaskInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dagster, "_Status", lambda _: None)
    with pytest.raises(TaskDeferred):
        task(worker_poll=0.1).execute(task_instance.context())
    with pytest.raises(RunTimeout):
        task(deferrable=False, timeout=0.3).execute(task_instance.context())
    assert len(dagster.runs) == 1
    assert dagster.runs[0]["remaining"] == ["CANCELED"]


def test_a_key_that_is_not_a_window_is_rejected(
    dagster: FakeDagster, task_instance: FakeTaskInstance
) -> None:
    dagster.node = {"isPartitioned": True, "partitionDefinition": {"type": "TIME_WINDOW"}}
    dagster.windows = [{"start": "2026-01-02", "end": "2026-01-02"}]  # what Dagster resolves it to
    with pytest.raises(UnknownPartition, match="2026-01-01"):
        run_task(task_instance, partition="2026-01-01")
    assert run_task(task_instance, partition="2026-01-02") == "run-1"
    assert dagster.runs[0]["tags"]["dagster/partition"] == "2026-01-02"


def test_a_range_is_one_run(dagster: FakeDagster, task_instance: FakeTaskInstance) -> None:
    dagster.node = {"isPartitioned": True, "partitionDefinition": {"type": "TIME_WINDOW"}}
    dagster.windows = [{"start": "a", "end": "a"}, {"start": "c", "end": "c"}]
    assert run_task(task_instance, partition_range=["a", "c"]) == "run-1"
    tags = dagster.runs[0]["tags"]
    assert tags["dagster/asset_partition_range_start"] == "a"
    assert tags["dagster/asset_partition_range_end"] == "c"
    with pytest.raises(UnknownPartition):  # reversed: Dagster's run would do nothing
        run_task(FakeTaskInstance(), partition_range=["c", "a"])


def test_partitions_of_other_kinds_are_looked_up_by_name(
    dagster: FakeDagster, task_instance: FakeTaskInstance
) -> None:
    dagster.node = {"isPartitioned": True, "partitionDefinition": {"type": "STATIC"}}
    assert run_task(task_instance, partition="red") == "run-1"
    with pytest.raises(UnknownPartition, match="blue"):
        run_task(FakeTaskInstance(), partition="blue")


@pytest.mark.parametrize(("partitioned", "partition"), [(True, None), (False, "2026-01-01")])
def test_a_partition_is_required_exactly_for_partitioned_assets(
    dagster: FakeDagster, task_instance: FakeTaskInstance, partitioned: bool, partition: str | None
) -> None:
    dagster.node = {"isPartitioned": partitioned}
    with pytest.raises(UnknownPartition):
        run_task(task_instance, partition=partition)
    assert dagster.runs == []


def test_an_asset_that_cannot_be_materialized_is_rejected(
    dagster: FakeDagster, task_instance: FakeTaskInstance
) -> None:
    dagster.node = {"isMaterializable": False}
    with pytest.raises(UnknownAsset, match="m/a"):
        run_task(task_instance)


def test_a_task_waits_for_code_that_is_not_loaded(
    dagster: FakeDagster, task_instance: FakeTaskInstance
) -> None:
    dagster.node, dagster.polls_until_loaded = {"isMaterializable": False}, 2
    assert run_task(task_instance) == "run-1"
    assert dagster.operation_names.count("Locations") == 2


def test_the_token_is_sent_and_the_test_button_works(
    dagster: FakeDagster, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bridge.unit.fake_dagster import connection_json

    connection = connection_json(dagster.address, password="t0k")
    monkeypatch.setenv("AIRFLOW_CONN_DAGSTER_DEFAULT", connection)
    assert DagsterHook().test_connection() == (True, "Dagster 1.13.27 responds.")
    assert dagster.headers["Authorization"] == "Bearer t0k"
    dagster.status_code = 401
    works, message = DagsterHook().test_connection()
    assert not works
    assert "token" in message
    monkeypatch.setenv("AIRFLOW_CONN_DAGSTER_DEFAULT", connection_json("http://127.0.0.1:9"))
    works, message = DagsterHook().test_connection()
    assert not works
    assert "Cannot connect" in message


def test_outlet_events_contain_the_materializations(
    dagster: FakeDagster, task_instance: FakeTaskInstance
) -> None:
    entries = [{"label": "digest", "text": "abc"}, {"label": "seq", "intValue": 0}, {"label": "x"}]
    dagster.events = [
        {"__typename": "MaterializationEvent", "assetKey": {"path": ["m", "a"]},
         "partition": "w", "metadataEntries": entries}
    ]  # fmt: skip
    operator = task()
    outlet = SimpleNamespace(uri="dagster://dagster_default/m/a")
    operator.outlets = [outlet]
    context = task_instance.context()
    context["outlet_events"] = _OutletEvents(task_instance.extras)
    assert operator.execute(context) == "run-1"
    materialization = {"partition": "w", "digest": "abc", "seq": 0}
    assert task_instance.extras == {
        "dagster_run_id": "run-1",
        "materializations": [materialization],
    }


class _OutletEvents:
    """The interface of `outlet_events` that a task uses: by outlet, an object with an `extra`."""

    def __init__(self, extra: dict[str, Any]) -> None:
        self.extra = extra

    def __getitem__(self, outlet: object) -> "_OutletEvents":
        return self


def sensor(**overrides: Any) -> PartitionFreshSensor:
    return PartitionFreshSensor(
        task_id="s", asset="m/a", partition="w", poke_interval=0.02, timing=FAST, **overrides
    )


def test_a_fresh_partition_succeeds_at_once_and_a_stale_one_is_awaited(
    dagster: FakeDagster,
) -> None:
    sensor().execute({})
    stale = sensor(since="2030-01-01T00:00:00+00:00", timeout=0.2)
    with pytest.raises(TaskDeferred) as caught:
        stale.execute({})
    started_at = time.monotonic()
    event = trigger_event(caught.value.trigger)
    assert time.monotonic() - started_at >= 0.1
    with pytest.raises(RunTimeout, match="not materialized"):
        stale.execute_complete({}, event)
    stale.execute_complete({}, {"materialized": 1.0})
