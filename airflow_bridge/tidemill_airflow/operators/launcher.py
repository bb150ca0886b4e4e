"""Launching Dagster runs at most once: any later try of a task finds the run again."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from tidemill_airflow import graphql
from tidemill_airflow.errors import BridgeError, DagsterUnreachable, ResponseLost
from tidemill_airflow.hooks.dagster import DagsterHook
from tidemill_airflow.runs import Attempt, Run, RunStatus, TaskIdentity, identity_tags

STATE_KEY = "dagster_attempt"
"""The key of the attempt in `task_state_store`, which all tries of a task share."""
POLL_INTERVAL_SECONDS = 0.5
"""Seconds between two polls by a worker."""

T = TypeVar("T")


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
class RunLauncher:
    """Launches runs until `deadline` (seconds since 1970), and passes each to `on_run`."""

    hook: DagsterHook
    state_store: TaskStateStore
    request: RunRequest
    identity: TaskIdentity
    deadline: float
    on_run: Callable[[Run], None]

    def launch_or_resume(self) -> Run:
        """The run to monitor: an earlier one that has not failed, or else a new one."""
        attempt = Attempt.from_json(self.state_store.get(STATE_KEY))
        if attempt is None or not attempt.is_current(self.identity):
            return self._launch(Attempt.first(self.identity, time.time()))
        run = self._await_lost_launch(attempt)
        if run is None:
            return self._launch(attempt.relaunched(time.time()))
        while run.status is RunStatus.CANCELING and time.time() < self.deadline:
            time.sleep(POLL_INTERVAL_SECONDS)  # by the clear that has caused this try
            run = self.refresh(run)
        if run.status in (RunStatus.FAILURE, RunStatus.CANCELED):
            return self._launch(attempt.next_attempt(time.time()))
        self.hook.log.info("Resuming run %s, which was launched before.", run.id)
        return self._announce(run)

    def launch_next(self) -> Run:
        """The run of the next attempt under the same key."""
        attempt = Attempt.from_json(self.state_store.get(STATE_KEY)) or Attempt.first(
            self.identity, time.time()
        )
        return self._launch(attempt.next_attempt(time.time()))

    def refresh(self, run: Run) -> Run:
        """The run as it is now, or unchanged if Dagster does not respond."""
        try:
            return self.hook.get_run(run.id)
        except BridgeError as error:
            self._wait_or_raise(error)
            return run

    def mark_succeeded(self) -> None:
        """Record that the success was observed: only a clear launches another run."""
        attempt = Attempt.from_json(self.state_store.get(STATE_KEY))
        if attempt is not None:
            self.state_store.set(STATE_KEY, attempt.completed().to_json())

    def retrying(self, call: Callable[[], T]) -> T:
        """The result of the call, retried until the deadline while Dagster does not respond."""
        while True:
            try:
                return call()
            except (DagsterUnreachable, ResponseLost) as error:
                self._wait_or_raise(error)

    def _launch(self, attempt: Attempt) -> Run:
        """Store the attempt, then launch its run. After a lost response, look for the run."""
        request = self.request
        repository = self.retrying(
            lambda: self.hook.resolve_repository(request.assets, request.partitions)
        )
        tags = {**request.all_tags, **identity_tags(self.identity), **attempt.tags}
        response_lost = False
        while True:
            self.state_store.set(STATE_KEY, attempt.to_json())
            try:
                run = self.hook.launch(repository, request.assets, request.run_config, tags)
            except DagsterUnreachable as error:
                self._wait_or_raise(error)
            except ResponseLost as error:
                response_lost = True
                self._wait_or_raise(error)
                existing = self._await_lost_launch(attempt)
                if existing is not None:
                    return self._announce(existing)
            except BridgeError:
                existing = self._find(attempt)
                if existing is None:
                    raise
                return self._announce(existing)  # rejected after the run was created
            else:
                return self._announce((response_lost and self._find(attempt)) or run)
            attempt = attempt.relaunched(time.time())

    def _await_lost_launch(self, attempt: Attempt) -> Run | None:
        """The run of an attempt; None once a lost launch can no longer create it."""
        while True:
            run = self._find(attempt)
            if run is not None or not attempt.lost_launch_seconds_left(time.time()):
                return run
            time.sleep(POLL_INTERVAL_SECONDS)

    def _find(self, attempt: Attempt) -> Run | None:
        return self.retrying(lambda: self.hook.find_run(attempt))

    def _wait_or_raise(self, error: BridgeError) -> None:
        """Wait before a retry. After the deadline, raise the error instead."""
        if time.time() >= self.deadline:
            raise error
        self.hook.log.warning("%s", error)
        time.sleep(2 * POLL_INTERVAL_SECONDS)

    def _announce(self, run: Run) -> Run:
        self.on_run(run)
        return run
