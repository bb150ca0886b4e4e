"""The simulated stream as an asset: window by window its next stretch, each event once."""

import re
import time
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

import dagster as dg
from dagster._utils.warnings import suppress_dagster_warnings

from tidemill.core.errors import TidemillError
from tidemill.core.spec import ModelSpec
from tidemill.core.windows import Window, to_ms
from tidemill.defs.lineage import OWNERS
from tidemill.defs.partitions import partitions_of, windows_asked
from tidemill.defs.walk import failure

if TYPE_CHECKING:
    from tidemill.adapters.streams.produce import Told

_FLIGHTS = re.compile(r"flights(-[A-Za-z0-9._-]+)?")
"""The topics that are taken for the flights that come with tidemill."""
_ZONE = ZoneInfo("America/New_York")
_BEGIN, _FIRST, _END = (
    to_ms(datetime(*day, tzinfo=_ZONE)) for day in ((2013, 1, 1), (2013, 2, 1), (2014, 1, 2))
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
        return cls(first.start, length, 0.0 if _BEGIN <= first.start < _END else _DAY / length)

    @property
    def started(self) -> int:
        """The model's time when the flights begin."""
        return self.origin - int((_FIRST - _BEGIN) / self.speed) if self.speed else _BEGIN

    def flights_time(self, moment: int) -> int:
        """The flights' time at this moment of the model's."""
        return _FIRST + round((moment - self.origin) * self.speed) if self.speed else moment


@suppress_dagster_warnings  # backfill policies are beta
def stretches(model: str, spec: ModelSpec) -> list[dg.AssetsDefinition]:
    """`stretch`, for a model whose topic is `flights` or begins with `flights-`; else nothing."""
    if not _FLIGHTS.fullmatch(spec.topic):
        return []
    partitions = partitions_of(spec.calendar, begun=True)

    @dg.asset(
        key=[model, "stretch"],
        description="The events of the simulated stream that are reported until the window's end, "
        "and not yet in the topic. Before that end each is sent in its moment.",
        partitions_def=partitions,
        group_name=model,
        owners=OWNERS,
        kinds={"kafka"},
        pool=f"tidemill_{model}_stretch",
        backfill_policy=dg.BackfillPolicy.single_run(),
    )
    def stretch(context: dg.AssetExecutionContext) -> dg.MaterializeResult[None]:
        try:
            window = windows_asked(spec.calendar, partitions, context)[-1]
            told = _produce(spec, window)
        except TidemillError as error:
            raise failure(error) from error
        return dg.MaterializeResult(
            metadata={
                "topic": told.topic,
                "produced": told.produced,
                "present": told.present,
                "last event": dg.MetadataValue.json({str(p): n for p, n in told.last.items()}),
            }
        )

    return [stretch]


def _produce(spec: ModelSpec, window: Window) -> "Told":
    from tidemill import bootstrap
    from tidemill.adapters.streams.flights import events
    from tidemill.adapters.streams.produce import produce
    from tidemill.settings import Settings

    settings, pace = Settings(), Pace.of(spec)
    with bootstrap.cluster(settings) as cluster:
        return produce(
            events(),
            cluster,
            spec.topic,
            _BEGIN,
            pace.flights_time(window.end),
            locks=settings.home / "locks",
            clock=lambda: time.time_ns() // 1_000_000,
            sleep=time.sleep,
            speed=pace.speed,
            started=pace.started,
        )
