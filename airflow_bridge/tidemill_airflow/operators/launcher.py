"""Launching Dagster runs at most once: any later try of a task finds the run again."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from tidemill_airflow import graphql
from tidemill_airflow.errors import DagsterRejected, RunFailed, RunTimeout
from tidemill_airflow.hooks.dagster import DagsterHook
from tidemill_airflow.runs import (
    Attempt,
    Run,
    RunStatus,
    TaskIdentity,
    Timing,
    Unanswered,
    format_errors,
    identity_tags,
    retryable_error,
)

STATE_KEY = "dagster_attempt"
"""The key of the attempt in `task_state_store`, which all tries of a task share."""


class TaskStateStore(Protocol):
    """The interface of `context["task_state_store"]` that is used here."""

    def get(self, key: str) -> Any: ...

    def set(self, key: str, value: Any) -> None: ...


@dataclass(frozen=True)
class RunRequest:
    """The run to launch: its assets, and no partition, one, or the bounds of a range."""

    assets: Sequence[str]
    partitions: Sequence[str]
    run_config: Mapping[str, Any]
    tags: Mapping[str, str]

    @property
    def all_tags(self) -> dict[str, str]:
        """The run's tags, including those by which Dagster selects partitions."""
        is_single = len(self.partitions) == 1
        tag_names = (
            [graphql.PARTITION_TAG]
            if is_single
            else [graphql.RANGE_START_TAG, graphql.RANGE_END_TAG]
        )
        return {**self.tags, **dict(zip(tag_names, self.partitions, strict=False))}


@dataclass(frozen=True)
class Limits:
    """Until when, and after which errors, a task launches runs.

    `deadline` (seconds since 1970) is the end of `timeout` seconds. After `retryable_errors`,
    another run is launched every `retry_interval` seconds.
    """

    deadline: float
    timeout: float
    retryable_errors: Sequence[str]
    retry_interval: float


@dataclass(frozen=True)
class Running:
    """The run is active, or was just launched: poll it."""

    run: Run


@dataclass(frozen=True)
class Succeeded:
    """The run has succeeded."""

    run: Run


@dataclass(frozen=True)
class RetryAt:
    """The run failed because it is not possible yet: launch the next at `time`."""

    time: float
    cause: str


Outcome = Running | Succeeded | RetryAt


@dataclass(frozen=True)
class RunLauncher:
    """Launches and polls the runs of one task.

    Each method returns what to do next. It raises `RunFailed`, or `RunTimeout` at the deadline.
    """

    hook: DagsterHook
    state_store: TaskStateStore
    request: RunRequest
    identity: TaskIdentity
    limits: Limits
    timing: Timing

    def launch_or_resume(self) -> Outcome:
        """Continue with an earlier run that has not failed, or else launch one."""
        attempt = self._stored_attempt()
        if attempt is None or not attempt.is_current(self.identity):
            return self._launch(Attempt.first(self.identity, time.time()))
        run = self._await_lost_launch(attempt)
        if run is None:
            return self._launch(attempt.relaunched(time.time()))
        while run.status is RunStatus.CANCELING and time.time() < self.limits.deadline:
            time.sleep(self.timing.worker_poll_interval)  # by the clear that has caused this try
            run = self.hook.poll_run(run)
        if run.status in (RunStatus.FAILURE, RunStatus.CANCELED):
            return self._launch(attempt.next_attempt(time.time()))
        self.hook.log.info("Resuming run %s, which was launched before.", run.id)
        return self._outcome(run)

    def launch_next(self) -> Running:
        """Launch the next attempt under the same key."""
        attempt = self._stored_attempt() or Attempt.first(self.identity, time.time())
        return self._launch(attempt.next_attempt(time.time()))

    def poll(self, run_id: str) -> Outcome:
        """What has become of the run. While Dagster does not respond, its status is unknown."""
        return self._outcome(self.hook.poll_run(Run(run_id, RunStatus.UNKNOWN)))

    def mark_succeeded(self) -> None:
        """Record that the success was observed: only a clear launches another run."""
        attempt = self._stored_attempt()
        if attempt is not None:
            self.state_store.set(STATE_KEY, attempt.completed().to_json())

    def _stored_attempt(self) -> Attempt | None:
        return Attempt.from_json(self.state_store.get(STATE_KEY))

    def _outcome(self, run: Run) -> Outcome:
        now = time.time()
        if run.status is RunStatus.SUCCESS:
            return Succeeded(run)
        if run.status.is_terminal:
            return self._retry_at(run)
        if run.is_stuck(now, self.timing.stuck_after):
            self.hook.log.warning("Run %s was never started; launching another.", run.id)
            self.hook.try_to_terminate(run.id, force=True)
            return self.launch_next()
        if now >= self.limits.deadline:
            self.hook.try_to_terminate(run.id)
            raise _timeout_error(
                f"Run {run.id} did not finish within {self.limits.timeout:g} s.", "was terminated"
            )
        return Running(run)

    def _retry_at(self, run: Run) -> RetryAt:
        """When to launch the next run. Raises `RunFailed` if the errors are not retryable."""
        errors = self.hook.run_errors(run.id)
        cause = retryable_error(errors, self.limits.retryable_errors)
        if run.status is not RunStatus.FAILURE or cause is None:
            url = self.hook.get_conn().run_url(run.id)
            raise RunFailed(
                f"Dagster run {run.id} ended as {run.status}: {url}", format_errors(errors)
            )
        retry_at = time.time() + self.limits.retry_interval
        if retry_at >= self.limits.deadline:
            raise _timeout_error(
                f"Still failing after {self.limits.timeout:g} s: {cause.message}", "failed"
            )
        return RetryAt(retry_at, cause.message)

    def _launch(self, attempt: Attempt) -> Running:
        """Store the attempt, then launch its run. After a lost response, look for the run."""
        request = self.request
        repository = self.hook.resolve_repository(request.assets, request.partitions)
        tags = {**request.all_tags, **identity_tags(self.identity), **attempt.tags}
        is_lost = False
        while True:
            self.state_store.set(STATE_KEY, attempt.to_json())
            try:
                run = self.hook.launch(repository, request.assets, request.run_config, tags)
            except DagsterRejected:
                existing = self.hook.find_run(attempt)
                if existing is None:
                    raise
                return Running(existing)  # rejected after the run was created
            if isinstance(run, Run):
                return Running((is_lost and self.hook.find_run(attempt)) or run)
            if run is Unanswered.RESPONSE_LOST:
                is_lost = True
                existing = self._await_lost_launch(attempt)
                if existing is not None:
                    return Running(existing)
            attempt = attempt.relaunched(time.time())

    def _await_lost_launch(self, attempt: Attempt) -> Run | None:
        """The run of an attempt; None once a lost launch can no longer create it."""
        while True:
            run = self.hook.find_run(attempt)
            left = attempt.lost_launch_seconds_left(time.time(), self.timing.lost_launch)
            if run is not None or not left:
                return run
            time.sleep(self.timing.worker_poll_interval)


def _timeout_error(message: str, outcome: str) -> RunTimeout:
    return RunTimeout(
        message, f"The Dagster run {outcome}; increase the task's `timeout` if it needs more time."
    )
