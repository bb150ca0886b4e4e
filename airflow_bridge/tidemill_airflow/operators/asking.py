"""What a try asks of Dagster: a run at most once, which any later try finds again."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from tidemill_airflow import graphql
from tidemill_airflow.errors import BridgeError, DagsterUnreached, ReplyLost
from tidemill_airflow.hooks.dagster import DagsterHook
from tidemill_airflow.runs import Attempt, Place, Run, RunStatus, tags_of

STORED = "dagster_attempt"
"""Under this name the attempt lies in `task_state_store`, which all tries of a task share."""
GLANCE = 0.5
"""Seconds between two looks of a worker."""

T = TypeVar("T")


class Store(Protocol):
    """What is used of `context["task_state_store"]`."""

    def get(self, key: str) -> Any: ...

    def set(self, key: str, value: Any) -> None: ...


@dataclass(frozen=True)
class Wanted:
    """What a run shall be: these assets, and no, one, or the first and last of many partitions."""

    assets: Sequence[str]
    partitions: Sequence[str]
    run_config: Mapping[str, Any]
    tags: Mapping[str, str]

    @property
    def all_tags(self) -> dict[str, str]:
        """The run's tags; those that say which partitions it is for are Dagster's."""
        alone = len(self.partitions) == 1
        names = [graphql.PARTITION] if alone else [graphql.RANGE_START, graphql.RANGE_END]
        return {**self.tags, **dict(zip(names, self.partitions, strict=False))}


@dataclass(frozen=True)
class Asking:
    """Asks until `deadline` (seconds since 1970), and lets `show` see each run that comes of it."""

    hook: DagsterHook
    store: Store
    wanted: Wanted
    place: Place
    deadline: float
    show: Callable[[Run], None]

    def begin(self) -> Run:
        """The run to follow: one asked for before that has not failed, else a new one."""
        attempt = Attempt.stored(self.store.get(STORED))
        if attempt is None or not attempt.goes_on(self.place):
            return self._ask(Attempt.first(self.place, time.time()))
        run = self._settled(attempt)
        if run is None:
            return self._ask(attempt.again(time.time()))
        while run.status is RunStatus.CANCELING and time.time() < self.deadline:
            time.sleep(GLANCE)  # by the clear that this try comes of
            run = self.look(run)
        if run.status in (RunStatus.FAILURE, RunStatus.CANCELED):
            return self._ask(attempt.following(time.time()))
        self.hook.log.info("Going on with run %s, which was asked for before.", run.id)
        return self._shown(run)

    def next(self) -> Run:
        """The run of the next ask under the same key."""
        attempt = Attempt.stored(self.store.get(STORED)) or Attempt.first(self.place, time.time())
        return self._ask(attempt.following(time.time()))

    def look(self, run: Run) -> Run:
        """The run as it is now; as it was, where Dagster does not tell."""
        try:
            return self.hook.run(run.id)
        except BridgeError as error:
            self._patience(error)
            return run

    def succeeded(self) -> None:
        """Remember that the success was seen: only a clear asks anew."""
        attempt = Attempt.stored(self.store.get(STORED))
        if attempt is not None:
            self.store.set(STORED, attempt.ended().json())

    def answered(self, ask: Callable[[], T]) -> T:
        """What is answered; asked again, until the deadline, while nobody hears or replies."""
        while True:
            try:
                return ask()
            except (DagsterUnreached, ReplyLost) as error:
                self._patience(error)

    def _ask(self, attempt: Attempt) -> Run:
        """Launch this ask. It is stored before; what came of a lost reply is looked for."""
        wanted = self.wanted
        home = self.answered(lambda: self.hook.repository(wanted.assets, wanted.partitions))
        tags = {**wanted.all_tags, **tags_of(self.place), **attempt.tags}
        lost = False
        while True:
            self.store.set(STORED, attempt.json())
            try:
                run = self.hook.launch(home, wanted.assets, wanted.run_config, tags)
            except DagsterUnreached as error:
                self._patience(error)
            except ReplyLost as error:
                lost = True
                self._patience(error)
                found = self._settled(attempt)
                if found is not None:
                    return self._shown(found)
            except BridgeError:
                found = self._found(attempt)
                if found is None:
                    raise
                return self._shown(found)  # refused after the run was made
            else:
                return self._shown((lost and self._found(attempt)) or run)
            attempt = attempt.again(time.time())

    def _settled(self, attempt: Attempt) -> Run | None:
        """The run of an ask; looked for until a launch that was lost cannot become one any more."""
        while True:
            run = self._found(attempt)
            if run is not None or not attempt.settles(time.time()):
                return run
            time.sleep(GLANCE)

    def _found(self, attempt: Attempt) -> Run | None:
        return self.answered(lambda: self.hook.find(attempt))

    def _patience(self, error: BridgeError) -> None:
        """Wait before Dagster is asked again. After the deadline the error is raised instead."""
        if time.time() >= self.deadline:
            raise error
        self.hook.log.warning("%s", error)
        time.sleep(2 * GLANCE)

    def _shown(self, run: Run) -> Run:
        self.show(run)
        return run
