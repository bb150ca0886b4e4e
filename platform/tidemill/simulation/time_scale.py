"""Maps the flights of 2013 to a model's stream, on the model's clock or the original one."""

import time
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from zoneinfo import ZoneInfo

from tidemill.adapters.clock import now_ms
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
    """The mapping of the flights' time to a model's, both in ms since 1970.

    If `speed` is 0, both times are equal. Otherwise each window of `window_ms` is one day of
    flights, and January is the history before the first window, which starts at `origin`.
    """

    origin: int
    window_ms: int
    speed: float

    @classmethod
    def for_spec(cls, spec: ModelSpec) -> "TimeScale":
        """The original time for a model whose first window is in the flights' year; else scaled."""
        first = spec.calendar.first
        window_ms = first.end - first.start
        is_original = _FLIGHTS_START <= first.start < FLIGHTS_END
        return cls(first.start, window_ms, 0.0 if is_original else _DAY_MS / window_ms)

    @property
    def starts_at(self) -> int:
        """The model's time at which the flights start."""
        if not self.speed:
            return _FLIGHTS_START
        return self.origin - int((_FIRST_WINDOW_START - _FLIGHTS_START) / self.speed)

    def flights_time(self, timestamp_ms: int) -> int:
        """The flights' time at this time of the model."""
        if not self.speed:
            return timestamp_ms
        return _FIRST_WINDOW_START + round((timestamp_ms - self.origin) * self.speed)

    @property
    def ends_at(self) -> int:
        """The model's time at which the flights end."""
        if not self.speed:
            return FLIGHTS_END
        return self.origin + int((FLIGHTS_END - _FIRST_WINDOW_START) / self.speed)


def produce_until(
    cluster: Cluster, topic: str, time_scale: TimeScale, end: int, lock_folder: Path
) -> ProduceResult:
    """Produce the flights reported before `end`, ms of the flights' time, to the topic.

    With a speed above 0, each flight is sent when it is due. Raises the errors of `produce`.
    """
    return produce(
        events(),
        cluster,
        topic,
        _FLIGHTS_START,
        end,
        lock_folder=lock_folder,
        clock=now_ms,
        sleep=time.sleep,
        speed=time_scale.speed,
        topic_start_ms=time_scale.starts_at,
    )
