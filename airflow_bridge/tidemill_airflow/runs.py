"""Dagster's runs as the bridge sees them, and by what identity a run is asked for at most once."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from typing import Any

KEY_TAG, ASK_TAG = "airflow/key", "airflow/ask"
"""The tags by which a run is found again: the attempt's key, and the number of the ask."""

SETTLE = 60.0
"""Seconds in which a launch whose reply was lost may still become a run: twice the wait for one."""
UNSTARTED = 60.0
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
    def of(cls, word: str) -> "RunStatus":
        """The status of this name."""
        return cls.__members__.get(word, cls.UNKNOWN)

    @property
    def is_terminal(self) -> bool:
        """Whether the run has ended for good."""
        return self in (RunStatus.SUCCESS, RunStatus.FAILURE, RunStatus.CANCELED)


@dataclass(frozen=True)
class Run:
    """A Dagster run: its id, its status, and when it was created (seconds since 1970, if known)."""

    id: str
    status: RunStatus
    created: float = 0.0

    def is_stuck(self, now: float) -> bool:
        """Whether it was created and never started, for longer than that takes."""
        known = self.status is RunStatus.NOT_STARTED and self.created > 0
        return known and now - self.created > UNSTARTED


@dataclass(frozen=True)
class Fault:
    """One error of a failed run: its name where the metadata tell it as `error`, and its text."""

    name: str | None
    text: str


@dataclass(frozen=True)
class Place:
    """Where in Airflow a task runs; `lives` changes with each clear, and not with a retry."""

    dag_id: str
    run_id: str
    task_id: str
    map_index: int
    try_number: int
    lives: str


@dataclass(frozen=True)
class Attempt:
    """What was asked of Dagster last: written before it is asked, so that any retry finds it.

    `key` is one for all tries between two clears; `ask` counts the runs under it, from 1. `asked`
    is the moment (seconds since 1970) of the last launch. `done` says that its success was seen.
    """

    key: str
    ask: int
    asked: float
    lives: str
    done: bool = False

    @classmethod
    def first(cls, place: Place, now: float) -> "Attempt":
        """The first ask of a task that has nothing to go on with."""
        told = [place.dag_id, place.run_id, place.task_id, place.map_index, place.try_number]
        key = hashlib.sha256(json.dumps(told).encode()).hexdigest()[:32]
        return cls(key, 1, now, place.lives)

    @classmethod
    def stored(cls, value: object) -> "Attempt | None":
        """The attempt that was stored; None where there is none."""
        return cls(**value) if isinstance(value, dict) else None

    def goes_on(self, place: Place) -> bool:
        """Whether this attempt is still the task's own: not one cleared after its success."""
        return not self.done or self.lives == place.lives

    def again(self, now: float) -> "Attempt":
        """The same ask once more."""
        return replace(self, asked=now)

    def following(self, now: float) -> "Attempt":
        """The next ask under the same key."""
        return replace(self, ask=self.ask + 1, asked=now)

    def ended(self) -> "Attempt":
        """This attempt, its success seen."""
        return replace(self, done=True)

    def json(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def tags(self) -> dict[str, str]:
        return {KEY_TAG: self.key, ASK_TAG: str(self.ask)}

    def settles(self, now: float) -> float:
        """Seconds until a launch whose reply was lost cannot become a run any more."""
        return max(0.0, self.asked + SETTLE - now)


def tags_of(place: Place) -> dict[str, str]:
    """What a person wants to see of Airflow at a Dagster run."""
    return {
        "airflow/dag_id": place.dag_id,
        "airflow/run_id": place.run_id,
        "airflow/task_id": place.task_id,
        "airflow/map_index": str(place.map_index),
    }


def first_of(runs: Sequence[Run]) -> tuple[Run | None, list[Run]]:
    """The run that counts of those under one ask, and the others: the one created first counts."""
    ordered = sorted(runs, key=lambda run: (run.created, run.id))
    return (ordered[0] if ordered else None), ordered[1:]


def followed(faults: Sequence[Fault], names: Sequence[str]) -> Fault | None:
    """The fault after which the same is asked again, if the run failed of no other."""
    others = [fault for fault in faults if fault.name not in names]
    return faults[0] if faults and not others else None


def told(faults: Sequence[Fault]) -> str:
    """The errors of a run, as its log shall end."""
    return "\n".join(dict.fromkeys(fault.text.strip() for fault in faults)) or "It told no error."


def metadata_texts(entries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What metadata entries hold, for those that hold a text, a number or a truth."""
    found = {}
    for entry in entries:
        for held in ("text", "intValue", "floatValue", "boolValue", "url"):
            if entry.get(held) is not None:
                found[str(entry["label"])] = entry[held]
                break
    return found
