"""Triggers that wait for a Dagster run, a pause or a partition without a worker slot."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from tidemill_airflow.errors import BridgeError
from tidemill_airflow.hooks.dagster import DagsterHook

MIN_TRIGGER_SECONDS = 6.0
"""Minimum seconds that a trigger lasts: a task that is resumed within five seconds of its deferral
can be marked failed (Airflow 3.3, issues 71580 and 72716)."""


class DagsterRunTrigger(BaseTrigger):
    """Waits until a Dagster run has finished, is stuck, or `deadline` (seconds since 1970) passes.

    Its event: `run_id`, `deadline`, and as `status` the run's final status, `stuck` or `timeout`.
    Failed requests to Dagster are retried until then. Marking the task as failed or clearing it
    terminates the run.
    """

    def __init__(
        self, dagster_conn_id: str, run_id: str, deadline: float, poll_interval: float
    ) -> None:
        super().__init__()
        self.dagster_conn_id = dagster_conn_id
        self.run_id = run_id
        self.deadline = deadline
        self.poll_interval = poll_interval

    def serialize(self) -> tuple[str, dict[str, Any]]:
        return (
            f"{__name__}.DagsterRunTrigger",
            {
                "dagster_conn_id": self.dagster_conn_id,
                "run_id": self.run_id,
                "deadline": self.deadline,
                "poll_interval": self.poll_interval,
            },
        )

    async def run(self) -> AsyncIterator[TriggerEvent]:
        hook = DagsterHook(self.dagster_conn_id)
        earliest_end = time.monotonic() + MIN_TRIGGER_SECONDS
        while (status := await self._status(hook)) is None:
            await asyncio.sleep(self.poll_interval)
        await asyncio.sleep(max(0.0, earliest_end - time.monotonic()))
        yield TriggerEvent({"run_id": self.run_id, "status": status, "deadline": self.deadline})

    async def _status(self, hook: DagsterHook) -> str | None:
        """The final status of the run, or why waiting ends without one; None while it is active."""
        try:
            run = await hook.aget_run(self.run_id)
        except BridgeError as error:
            self.log.warning("Polling Dagster failed and is retried: %s", error)
        else:
            if run.status.is_terminal:
                return str(run.status)
            if run.is_stuck(time.time()):
                return "stuck"
        return "timeout" if time.time() >= self.deadline else None

    async def on_kill(self) -> None:
        await DagsterHook(self.dagster_conn_id, timeout=10).aterminate(self.run_id)


class PauseTrigger(BaseTrigger):
    """Waits until `resume_at` (seconds since 1970), for at least `MIN_TRIGGER_SECONDS`.

    Its event: `status`, which is `paused`, and the `deadline` of the task, passed through.
    """

    def __init__(self, resume_at: float, deadline: float) -> None:
        super().__init__()
        self.resume_at = resume_at
        self.deadline = deadline

    def serialize(self) -> tuple[str, dict[str, Any]]:
        return f"{__name__}.PauseTrigger", {"resume_at": self.resume_at, "deadline": self.deadline}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        await asyncio.sleep(max(MIN_TRIGGER_SECONDS, self.resume_at - time.time()))
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
    ) -> None:
        super().__init__()
        self.dagster_conn_id = dagster_conn_id
        self.asset = asset
        self.partition = partition
        self.since = since
        self.deadline = deadline
        self.poll_interval = poll_interval

    def serialize(self) -> tuple[str, dict[str, Any]]:
        fields = (
            "dagster_conn_id", "asset", "partition", "since", "deadline", "poll_interval",
        )  # fmt: skip
        return f"{__name__}.DagsterPartitionTrigger", {name: getattr(self, name) for name in fields}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        hook = DagsterHook(self.dagster_conn_id)
        earliest_end, materialized_at = time.monotonic() + MIN_TRIGGER_SECONDS, None
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
