"""How the flights of 2013 become the stream of a model, on its own clock or on the flights'."""

import time
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from zoneinfo import ZoneInfo

from tidemill.adapters.kafka import Cluster
from tidemill.core.spec import ModelSpec
from tidemill.core.windows import to_ms
from tidemill.simulation.flights import ZONE, events
from tidemill.simulation.produce import ProduceResult, produce

_FLIGHTS_START, _FIRST_WINDOW_START, FLIGHTS_END = (
    to_ms(datetime(*day, tzinfo=ZoneInfo(ZONE)))
    for day in ((2013, 1, 1), (2013, 2, 1), (2014, 1, 2))
)
_DAY_MS = 86_400_000


@dataclass(frozen=True)
class TimeScale:
    """How the flights' time becomes a model's; all in ms since 1970, `speed` 0: it is the same.

    On a model's own clock January is the history before its first window `origin`, and each window
    of `length` ms is one day of flights.
    """

    origin: int
    window_ms: int
    speed: float

    @classmethod
    def for_spec(cls, spec: ModelSpec) -> "TimeScale":
        """As it was, for a model whose windows lie in the flights' own year; else on its clock."""
        first = spec.calendar.first
        window_ms = first.end - first.start
        return cls(
            first.start,
            window_ms,
            0.0 if _FLIGHTS_START <= first.start < FLIGHTS_END else _DAY_MS / window_ms,
        )

    @property
    def starts_at(self) -> int:
        """The model's time when the flights begin."""
        return (
            self.origin - int((_FIRST_WINDOW_START - _FLIGHTS_START) / self.speed)
            if self.speed
            else _FLIGHTS_START
        )

    def flights_time(self, timestamp_ms: int) -> int:
        """The flights' time at this moment of the model's."""
        return (
            _FIRST_WINDOW_START + round((timestamp_ms - self.origin) * self.speed)
            if self.speed
            else timestamp_ms
        )

    @property
    def ends_at(self) -> int:
        """The model's time when the flights end."""
        return (
            self.origin + int((FLIGHTS_END - _FIRST_WINDOW_START) / self.speed)
            if self.speed
            else FLIGHTS_END
        )


def produce_until(
    cluster: Cluster, topic: str, time_scale: TimeScale, end: int, lock_folder: Path
) -> ProduceResult:
    """Bring the topic up to the flights reported before `end`, ms of the flights' time.

    Before that moment each is sent in its own. Raises as `produce`.
    """
    return produce(
        events(),
        cluster,
        topic,
        _FLIGHTS_START,
        end,
        lock_folder=lock_folder,
        clock=lambda: time.time_ns() // 1_000_000,
        sleep=time.sleep,
        speed=time_scale.speed,
        topic_start_ms=time_scale.starts_at,
    )
