"""Triggers that wait for a Dagster run, a pause or a partition without a worker slot."""

import asyncio
import time
from collections.abc import AsyncIterator
from inspect import signature
from typing import Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from tidemill_airflow.errors import BridgeError
from tidemill_airflow.hooks.dagster import DagsterHook
from tidemill_airflow.runs import Run, RunStatus, Timing

DEFAULTS = Timing()


class DagsterRunTrigger(BaseTrigger):
    """Waits until a Dagster run has finished, is stuck, or `deadline` (seconds since 1970) passes.

    Its event: `run_id`, `deadline`, and as `status` the run's final status, `stuck` or `timeout`.
    Failed requests to Dagster are retried until then. Marking the task as failed or clearing it
    terminates the run. See `Timing` for `stuck_after` and `min_seconds`.
    """

    def __init__(
        self,
        dagster_conn_id: str,
        run_id: str,
        deadline: float,
        poll_interval: float,
        stuck_after: float = DEFAULTS.stuck_after,
        min_seconds: float = DEFAULTS.min_trigger,
    ) -> None:
        super().__init__()
        self.dagster_conn_id = dagster_conn_id
        self.run_id = run_id
        self.deadline = deadline
        self.poll_interval = poll_interval
        self.stuck_after = stuck_after
        self.min_seconds = min_seconds

    def serialize(self) -> tuple[str, dict[str, Any]]:
        return _serialized(self)

    async def run(self) -> AsyncIterator[TriggerEvent]:
        hook, unknown = DagsterHook(self.dagster_conn_id), Run(self.run_id, RunStatus.UNKNOWN)
        earliest_end = time.monotonic() + self.min_seconds
        while (status := self._final_status(await hook.apoll_run(unknown))) is None:
            await asyncio.sleep(self.poll_interval)
        await asyncio.sleep(max(0.0, earliest_end - time.monotonic()))
        yield TriggerEvent({"run_id": self.run_id, "status": status, "deadline": self.deadline})

    def _final_status(self, run: Run) -> str | None:
        """The final status of the run, or why waiting ends without one; None while it is active."""
        now = time.time()
        if run.status.is_terminal:
            return str(run.status)
        if run.is_stuck(now, self.stuck_after):
            return "stuck"
        return "timeout" if now >= self.deadline else None

    async def on_kill(self) -> None:
        await DagsterHook(self.dagster_conn_id, timeout=10).aterminate(self.run_id)


class PauseTrigger(BaseTrigger):
    """Waits until `resume_at` (seconds since 1970), for at least `min_seconds`.

    Its event: `status`, which is `paused`, and the `deadline` of the task, passed through.
    """

    def __init__(
        self, resume_at: float, deadline: float, min_seconds: float = DEFAULTS.min_trigger
    ) -> None:
        super().__init__()
        self.resume_at = resume_at
        self.deadline = deadline
        self.min_seconds = min_seconds

    def serialize(self) -> tuple[str, dict[str, Any]]:
        return _serialized(self)

    async def run(self) -> AsyncIterator[TriggerEvent]:
        await asyncio.sleep(max(self.min_seconds, self.resume_at - time.time()))
        yield TriggerEvent({"status": "paused", "deadline": self.deadline})


class DagsterPartitionTrigger(BaseTrigger):
    """Waits until an asset, or a partition of it, was materialized at or after `since`.

    Times are seconds since 1970. Its event: `materialized`, the time; None if `deadline` passes
    first.
    """

    def __init__(
        self,
        dagster_conn_id: str,
        asset: str,
        partition: str | None,
        since: float,
        deadline: float,
        poll_interval: float,
        min_seconds: float = DEFAULTS.min_trigger,
    ) -> None:
        super().__init__()
        self.dagster_conn_id = dagster_conn_id
        self.asset = asset
        self.partition = partition
        self.since = since
        self.deadline = deadline
        self.poll_interval = poll_interval
        self.min_seconds = min_seconds

    def serialize(self) -> tuple[str, dict[str, Any]]:
        return _serialized(self)

    async def run(self) -> AsyncIterator[TriggerEvent]:
        hook = DagsterHook(self.dagster_conn_id)
        earliest_end, materialized_at = time.monotonic() + self.min_seconds, None
        while time.time() < self.deadline:
            try:
                materialized_at = await hook.amaterialized_at(self.asset, self.partition)
            except BridgeError as error:
                self.log.warning("Polling Dagster failed and is retried: %s", error)
            if materialized_at is not None and materialized_at >= self.since:
                break
            materialized_at = None
            await asyncio.sleep(self.poll_interval)
        await asyncio.sleep(max(0.0, earliest_end - time.monotonic()))
        yield TriggerEvent({"materialized": materialized_at})


def _serialized(trigger: BaseTrigger) -> tuple[str, dict[str, Any]]:
    """Airflow's form of a trigger, which has each argument of its class as an attribute."""
    trigger_class = type(trigger)
    arguments = {name: getattr(trigger, name) for name in signature(trigger_class).parameters}
    return f"{__name__}.{trigger_class.__name__}", arguments
