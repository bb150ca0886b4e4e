"""Dagster runs, and the identity by which a run is launched at most once."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from enum import Enum, StrEnum
from typing import Any

IDEMPOTENCY_KEY_TAG, ATTEMPT_TAG = "airflow/idempotency_key", "airflow/attempt"
"""The tags by which a run is found again: the attempt's key and its number."""


@dataclass(frozen=True)
class Timing:
    """Durations in seconds. Only tests have a reason to change them.

    `worker_poll_interval`: between two polls by a worker. `lost_launch`: for which a launch whose
    response was lost may still create a run; twice the timeout of a request. `stuck_after`: after
    which an unstarted run is abandoned, because its webserver died while launching it.
    `min_trigger`: the least that a trigger lasts, because a task that is resumed within five
    seconds of its deferral can be marked failed (Airflow 3.3, issues 71580 and 72716).
    """

    worker_poll_interval: float = 0.5
    lost_launch: float = 60.0
    stuck_after: float = 60.0
    min_trigger: float = 6.0


class RunStatus(StrEnum):
    """The status of a Dagster run. An unrecognized one is `UNKNOWN`, and polling continues."""

    QUEUED = "QUEUED"
    NOT_STARTED = "NOT_STARTED"
    MANAGED = "MANAGED"
    STARTING = "STARTING"
    STARTED = "STARTED"
    SUCCESS = "SUCCESS"
    FAILURE = "FAILURE"
    CANCELING = "CANCELING"
    CANCELED = "CANCELED"
    UNKNOWN = "UNKNOWN"

    @classmethod
    def from_name(cls, name: str) -> "RunStatus":
        """The status of this name."""
        return cls.__members__.get(name, cls.UNKNOWN)

    @property
    def is_terminal(self) -> bool:
        """Whether the run has finished."""
        return self in (RunStatus.SUCCESS, RunStatus.FAILURE, RunStatus.CANCELED)


@dataclass(frozen=True)
class Run:
    """A Dagster run: its id, its status, and when it was created (seconds since 1970, if known)."""

    id: str
    status: RunStatus
    created_at: float = 0.0

    def is_stuck(self, now: float, stuck_after: float) -> bool:
        """Whether it was created but has not started for longer than a start takes."""
        not_started = self.status is RunStatus.NOT_STARTED and self.created_at > 0
        return not_started and now - self.created_at > stuck_after


class Unanswered(Enum):
    """What is known about a launch request without a response."""

    NOT_SENT = "no run was created"
    RESPONSE_LOST = "a run may exist, or may still be created"


@dataclass(frozen=True)
class RunError:
    """One error of a failed run: its message, and its name if the metadata have it as `error`."""

    name: str | None
    message: str


@dataclass(frozen=True)
class TaskIdentity:
    """A task instance in Airflow; `clear_marker` changes with each clear, but not with a retry."""

    dag_id: str
    run_id: str
    task_id: str
    map_index: int
    try_number: int
    clear_marker: str


@dataclass(frozen=True)
class Attempt:
    """The last launch: stored before the request is sent, so that any retry finds it.

    All tries between two clears share `key`; `number` counts the runs under it, from 1.
    `launched_at` is the time of the last launch (seconds since 1970). `done`: the task has observed
    its success.
    """

    key: str
    number: int
    launched_at: float
    clear_marker: str
    done: bool = False

    @classmethod
    def first(cls, identity: TaskIdentity, now: float) -> "Attempt":
        """The first attempt of a task that has no run to resume."""
        parts = [
            identity.dag_id,
            identity.run_id,
            identity.task_id,
            identity.map_index,
            identity.try_number,
        ]
        key = hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]
        return cls(key, 1, now, identity.clear_marker)

    @classmethod
    def from_json(cls, value: object) -> "Attempt | None":
        """The stored attempt; None if there is none."""
        return cls(**value) if isinstance(value, dict) else None

    def is_current(self, identity: TaskIdentity) -> bool:
        """Whether this attempt still applies, which it does unless cleared after its success."""
        return not self.done or self.clear_marker == identity.clear_marker

    def relaunched(self, now: float) -> "Attempt":
        """The same attempt, launched again."""
        return replace(self, launched_at=now)

    def next_attempt(self, now: float) -> "Attempt":
        """The next attempt under the same key."""
        return replace(self, number=self.number + 1, launched_at=now)

    def completed(self) -> "Attempt":
        """This attempt, its success observed."""
        return replace(self, done=True)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def tags(self) -> dict[str, str]:
        return {IDEMPOTENCY_KEY_TAG: self.key, ATTEMPT_TAG: str(self.number)}

    def lost_launch_seconds_left(self, now: float, lost_launch: float) -> float:
        """Seconds until a launch whose response was lost can no longer create a run."""
        return max(0.0, self.launched_at + lost_launch - now)


def identity_tags(identity: TaskIdentity) -> dict[str, str]:
    """Tags that show the Airflow task on a Dagster run."""
    return {
        "airflow/dag_id": identity.dag_id,
        "airflow/run_id": identity.run_id,
        "airflow/task_id": identity.task_id,
        "airflow/map_index": str(identity.map_index),
    }


def oldest_and_duplicates(runs: Sequence[Run]) -> tuple[Run | None, list[Run]]:
    """The run of an attempt, which is the one created first, and its duplicates."""
    ordered = sorted(runs, key=lambda run: (run.created_at, run.id))
    return (ordered[0] if ordered else None), ordered[1:]


def retryable_error(errors: Sequence[RunError], retryable: Sequence[str]) -> RunError | None:
    """The error to retry after; None if the run has any error that is not retryable."""
    others = [error for error in errors if error.name not in retryable]
    return errors[0] if errors and not others else None


def format_errors(errors: Sequence[RunError]) -> str:
    """The errors of a run, as the last lines of the task's log."""
    return (
        "\n".join(dict.fromkeys(error.message.strip() for error in errors)) or "No error message."
    )


def metadata_values(entries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The values of the metadata entries that hold a text, a number, a boolean or a URL."""
    values = {}
    for entry in entries:
        for value_field in ("text", "intValue", "floatValue", "boolValue", "url"):
            if entry.get(value_field) is not None:
                values[str(entry["label"])] = entry[value_field]
                break
    return values
