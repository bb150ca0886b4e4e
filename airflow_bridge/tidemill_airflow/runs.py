"""Dagster's runs as the bridge sees them, and by what identity a run is asked for at most once."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from typing import Any

IDEMPOTENCY_KEY_TAG, ATTEMPT_TAG = "airflow/idempotency_key", "airflow/attempt"
"""The tags by which a run is found again: the attempt's key, and the number of the ask."""

LOST_LAUNCH_SECONDS = 60.0
"""Seconds in which a launch whose reply was lost may still become a run: twice the wait for one."""
STUCK_AFTER_SECONDS = 60.0
"""Seconds after which a run that nobody has started is given up: its webserver died over it."""


class RunStatus(StrEnum):
    """A status of a Dagster run; one that is not known here is `UNKNOWN`, and polled on."""

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
        """Whether the run has ended for good."""
        return self in (RunStatus.SUCCESS, RunStatus.FAILURE, RunStatus.CANCELED)


@dataclass(frozen=True)
class Run:
    """A Dagster run: its id, its status, and when it was created (seconds since 1970, if known)."""

    id: str
    status: RunStatus
    created_at: float = 0.0

    def is_stuck(self, now: float) -> bool:
        """Whether it was created and never started, for longer than that takes."""
        not_started = self.status is RunStatus.NOT_STARTED and self.created_at > 0
        return not_started and now - self.created_at > STUCK_AFTER_SECONDS


@dataclass(frozen=True)
class RunError:
    """One error of a failed run: its name where the metadata tell it as `error`, and its text."""

    name: str | None
    message: str


@dataclass(frozen=True)
class TaskIdentity:
    """Where in Airflow a task runs; `lives` changes with each clear, and not with a retry."""

    dag_id: str
    run_id: str
    task_id: str
    map_index: int
    try_number: int
    clear_marker: str


@dataclass(frozen=True)
class Attempt:
    """What was asked of Dagster last: written before it is asked, so that any retry finds it.

    `key` is one for all tries between two clears; `ask` counts the runs under it, from 1. `asked`
    is the moment (seconds since 1970) of the last launch. `done` says that its success was seen.
    """

    key: str
    number: int
    launched_at: float
    clear_marker: str
    done: bool = False

    @classmethod
    def first(cls, identity: TaskIdentity, now: float) -> "Attempt":
        """The first ask of a task that has nothing to go on with."""
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
        """The attempt that was stored; None where there is none."""
        return cls(**value) if isinstance(value, dict) else None

    def is_current(self, identity: TaskIdentity) -> bool:
        """Whether this attempt is still the task's own: not one cleared after its success."""
        return not self.done or self.clear_marker == identity.clear_marker

    def relaunched(self, now: float) -> "Attempt":
        """The same ask once more."""
        return replace(self, launched_at=now)

    def next_attempt(self, now: float) -> "Attempt":
        """The next ask under the same key."""
        return replace(self, number=self.number + 1, launched_at=now)

    def completed(self) -> "Attempt":
        """This attempt, its success seen."""
        return replace(self, done=True)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def tags(self) -> dict[str, str]:
        return {IDEMPOTENCY_KEY_TAG: self.key, ATTEMPT_TAG: str(self.number)}

    def lost_launch_seconds_left(self, now: float) -> float:
        """Seconds until a launch whose reply was lost cannot become a run any more."""
        return max(0.0, self.launched_at + LOST_LAUNCH_SECONDS - now)


def identity_tags(identity: TaskIdentity) -> dict[str, str]:
    """What a person wants to see of Airflow at a Dagster run."""
    return {
        "airflow/dag_id": identity.dag_id,
        "airflow/run_id": identity.run_id,
        "airflow/task_id": identity.task_id,
        "airflow/map_index": str(identity.map_index),
    }


def oldest_and_duplicates(runs: Sequence[Run]) -> tuple[Run | None, list[Run]]:
    """The run that counts of those under one ask, and the others: the one created first counts."""
    ordered = sorted(runs, key=lambda run: (run.created_at, run.id))
    return (ordered[0] if ordered else None), ordered[1:]


def retryable_error(errors: Sequence[RunError], retryable: Sequence[str]) -> RunError | None:
    """The fault after which the same is asked again, if the run failed of no other."""
    others = [error for error in errors if error.name not in retryable]
    return errors[0] if errors and not others else None


def format_errors(errors: Sequence[RunError]) -> str:
    """The errors of a run, as its log shall end."""
    return (
        "\n".join(dict.fromkeys(error.message.strip() for error in errors)) or "It told no error."
    )


def metadata_values(entries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What metadata entries hold, for those that hold a text, a number or a truth."""
    values = {}
    for entry in entries:
        for value_field in ("text", "intValue", "floatValue", "boolValue", "url"):
            if entry.get(value_field) is not None:
                values[str(entry["label"])] = entry[value_field]
                break
    return values
