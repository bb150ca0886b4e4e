"""What a try asks of Dagster: a run at most once, which any later try finds again."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from tidemill_airflow import graphql
from tidemill_airflow.errors import BridgeError, DagsterUnreachable, ResponseLost
from tidemill_airflow.hooks.dagster import DagsterHook
from tidemill_airflow.runs import Attempt, Run, RunStatus, TaskIdentity, identity_tags

STATE_KEY = "dagster_attempt"
"""Under this name the attempt lies in `task_state_store`, which all tries of a task share."""
POLL_INTERVAL_SECONDS = 0.5
"""Seconds between two looks of a worker."""

T = TypeVar("T")


class TaskStateStore(Protocol):
    """What is used of `context["task_state_store"]`."""

    def get(self, key: str) -> Any: ...

    def set(self, key: str, value: Any) -> None: ...


@dataclass(frozen=True)
class RunRequest:
    """What a run shall be: these assets, and no, one, or the first and last of many partitions."""

    assets: Sequence[str]
    partitions: Sequence[str]
    run_config: Mapping[str, Any]
    tags: Mapping[str, str]

    @property
    def all_tags(self) -> dict[str, str]:
        """The run's tags; those that say which partitions it is for are Dagster's."""
        is_single = len(self.partitions) == 1
        tag_names = (
            [graphql.PARTITION_TAG]
            if is_single
            else [graphql.RANGE_START_TAG, graphql.RANGE_END_TAG]
        )
        return {**self.tags, **dict(zip(tag_names, self.partitions, strict=False))}


@dataclass(frozen=True)
class RunLauncher:
    """Asks until `deadline` (seconds since 1970), and lets `show` see each run that comes of it."""

    hook: DagsterHook
    state_store: TaskStateStore
    request: RunRequest
    identity: TaskIdentity
    deadline: float
    on_run: Callable[[Run], None]

    def launch_or_resume(self) -> Run:
        """The run to follow: one asked for before that has not failed, else a new one."""
        attempt = Attempt.from_json(self.state_store.get(STATE_KEY))
        if attempt is None or not attempt.is_current(self.identity):
            return self._launch(Attempt.first(self.identity, time.time()))
        run = self._await_lost_launch(attempt)
        if run is None:
            return self._launch(attempt.relaunched(time.time()))
        while run.status is RunStatus.CANCELING and time.time() < self.deadline:
            time.sleep(POLL_INTERVAL_SECONDS)  # by the clear that this try comes of
            run = self.refresh(run)
        if run.status in (RunStatus.FAILURE, RunStatus.CANCELED):
            return self._launch(attempt.next_attempt(time.time()))
        self.hook.log.info("Going on with run %s, which was asked for before.", run.id)
        return self._announce(run)

    def launch_next(self) -> Run:
        """The run of the next ask under the same key."""
        attempt = Attempt.from_json(self.state_store.get(STATE_KEY)) or Attempt.first(
            self.identity, time.time()
        )
        return self._launch(attempt.next_attempt(time.time()))

    def refresh(self, run: Run) -> Run:
        """The run as it is now; as it was, where Dagster does not tell."""
        try:
            return self.hook.get_run(run.id)
        except BridgeError as error:
            self._wait_or_raise(error)
            return run

    def mark_succeeded(self) -> None:
        """Remember that the success was seen: only a clear asks anew."""
        attempt = Attempt.from_json(self.state_store.get(STATE_KEY))
        if attempt is not None:
            self.state_store.set(STATE_KEY, attempt.completed().to_json())

    def retrying(self, call: Callable[[], T]) -> T:
        """What is answered; asked again, until the deadline, while nobody hears or replies."""
        while True:
            try:
                return call()
            except (DagsterUnreachable, ResponseLost) as error:
                self._wait_or_raise(error)

    def _launch(self, attempt: Attempt) -> Run:
        """Launch this ask. It is stored before; what came of a lost reply is looked for."""
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
                return self._announce(existing)  # refused after the run was made
            else:
                return self._announce((response_lost and self._find(attempt)) or run)
            attempt = attempt.relaunched(time.time())

    def _await_lost_launch(self, attempt: Attempt) -> Run | None:
        """The run of an ask; looked for until a launch that was lost cannot become one any more."""
        while True:
            run = self._find(attempt)
            if run is not None or not attempt.lost_launch_seconds_left(time.time()):
                return run
            time.sleep(POLL_INTERVAL_SECONDS)

    def _find(self, attempt: Attempt) -> Run | None:
        return self.retrying(lambda: self.hook.find_run(attempt))

    def _wait_or_raise(self, error: BridgeError) -> None:
        """Wait before Dagster is asked again. After the deadline the error is raised instead."""
        if time.time() >= self.deadline:
            raise error
        self.hook.log.warning("%s", error)
        time.sleep(2 * POLL_INTERVAL_SECONDS)

    def _announce(self, run: Run) -> Run:
        self.on_run(run)
        return run
