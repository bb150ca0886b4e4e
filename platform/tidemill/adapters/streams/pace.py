"""How the flights of 2013 become the stream of a model, on its own clock or on the flights'."""

import time
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from zoneinfo import ZoneInfo

from tidemill.adapters.kafka import Cluster
from tidemill.adapters.streams.flights import ZONE, events
from tidemill.adapters.streams.produce import Told, produce
from tidemill.core.spec import ModelSpec
from tidemill.core.windows import to_ms

_BEGIN, _FIRST, END = (
    to_ms(datetime(*day, tzinfo=ZoneInfo(ZONE)))
    for day in ((2013, 1, 1), (2013, 2, 1), (2014, 1, 2))
)
_DAY = 86_400_000


@dataclass(frozen=True)
class Pace:
    """How the flights' time becomes a model's; all in ms since 1970, `speed` 0: it is the same.

    On a model's own clock January is the history before its first window `origin`, and each window
    of `length` ms is one day of flights.
    """

    origin: int
    length: int
    speed: float

    @classmethod
    def of(cls, spec: ModelSpec) -> "Pace":
        """As it was, for a model whose windows lie in the flights' own year; else on its clock."""
        first = spec.calendar.first
        length = first.end - first.start
        return cls(first.start, length, 0.0 if _BEGIN <= first.start < END else _DAY / length)

    @property
    def started(self) -> int:
        """The model's time when the flights begin."""
        return self.origin - int((_FIRST - _BEGIN) / self.speed) if self.speed else _BEGIN

    def flights_time(self, moment: int) -> int:
        """The flights' time at this moment of the model's."""
        return _FIRST + round((moment - self.origin) * self.speed) if self.speed else moment

    @property
    def ended(self) -> int:
        """The model's time when the flights end."""
        return self.origin + int((END - _FIRST) / self.speed) if self.speed else END


def bring_up_to(at: Cluster, topic: str, pace: Pace, end: int, locks: Path) -> Told:
    """Bring the topic up to the flights reported before `end`, ms of the flights' time.

    Before that moment each is sent in its own. Raises as `produce`.
    """
    return produce(
        events(),
        at,
        topic,
        _BEGIN,
        end,
        locks=locks,
        clock=lambda: time.time_ns() // 1_000_000,
        sleep=time.sleep,
        speed=pace.speed,
        started=pace.started,
    )
