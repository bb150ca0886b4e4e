"""Windows: half-open ranges of event time, identified by the key of their Dagster partition."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from tidemill.core.errors import SpecInvalid, UnknownWindow

DAY_FORMAT = "%Y-%m-%d"
MINUTE_FORMAT = "%Y-%m-%dT%H%MZ"
KEY_PATTERN = re.compile(r"[0-9A-Za-z_-]{1,64}")


def to_ms(moment: datetime) -> int:
    """An aware datetime as milliseconds since 1970-01-01 UTC."""
    return round(moment.timestamp() * 1000)


def from_ms(ms: int) -> datetime:
    """Milliseconds since 1970 as an aware UTC datetime."""
    return datetime.fromtimestamp(ms / 1000, UTC)


@dataclass(frozen=True, order=True)
class Window:
    """Event time `[start, end)` in milliseconds since 1970, and its key."""

    start: int
    end: int
    key: str

    def __str__(self) -> str:
        return self.key


@dataclass(frozen=True)
class Calendar:
    """All windows of a model: between the ticks of `cron` in `timezone`, from `start` (aware) on.

    The key of a window of a day or longer is its local start as `YYYY-MM-DD`. Shorter windows must
    be in UTC, because a change to winter time would give two windows the same key; their key is
    `YYYY-MM-DDTHHMMZ`.
    """

    cron: str
    start: datetime
    timezone: str = "UTC"

    def __post_init__(self) -> None:
        zone = ZoneInfo(self.timezone)
        try:
            CronSim(self.cron, self.start)
        except CronSimError as error:
            raise SpecInvalid(
                f"`windows.cron` {self.cron!r} is not a valid cron expression ({error}).",
                'Use five fields, such as "0 0 * * *" for days or "*/5 * * * *" for five minutes.',
            ) from error
        if not self.daily and zone.key != "UTC":
            raise SpecInvalid(
                f"Windows shorter than a day cannot be in the timezone {self.timezone}.",
                "Remove `windows.timezone`; windows shorter than a day are in UTC.",
            )

    @property
    def daily(self) -> bool:
        """Whether every window lasts at least a day: `cron` has a fixed minute and a fixed hour."""
        minute, hour = self.cron.split()[:2]
        return minute.isdigit() and hour.isdigit()

    @property
    def key_format(self) -> str:
        """The strftime format of keys, which Dagster's partitions use, too."""
        return DAY_FORMAT if self.daily else MINUTE_FORMAT

    @cached_property
    def _zone(self) -> ZoneInfo:
        return ZoneInfo(self.timezone)

    @cached_property
    def first(self) -> Window:
        """The first window: it starts at the first tick at or after `start`."""
        return self._window(self._tick_at_or_after(self.start.astimezone(self._zone)))

    def window(self, key: str) -> Window:
        """The window with this key. Raises `UnknownWindow` for anything else."""
        example = f"Keys look like {self.first.key}, the first window of this model."
        if not KEY_PATTERN.fullmatch(key):
            raise UnknownWindow(f"{key[:80]!r} is not a valid window key.", example)
        try:
            local = datetime.strptime(key, self.key_format)  # noqa: DTZ007 - the zone is added below
        except ValueError:
            raise UnknownWindow(f"{key!r} is not a valid window key.", example) from None
        window = self._window(self._tick_at_or_after(local.replace(tzinfo=self._zone)))
        if window.key != key:
            raise UnknownWindow(f"No window starts at {key!r} with cron {self.cron!r}.", example)
        if window.start < self.first.start:
            raise UnknownWindow(f"{key!r} is before the first window.", example)
        return window

    def containing(self, timestamp_ms: int) -> Window | None:
        """The window that contains this time; None before the first window."""
        if timestamp_ms < self.first.start:
            return None
        moment = from_ms(timestamp_ms).astimezone(self._zone) + timedelta(milliseconds=1)
        return self._window(next(CronSim(self.cron, _ceil_minute(moment), reverse=True)))

    def after(self, window: Window) -> Window:
        """The window that starts where this one ends."""
        return self._window(from_ms(window.end).astimezone(self._zone))

    def before(self, window: Window) -> Window | None:
        """The window that ends where this one starts; None for the first."""
        if window.start <= self.first.start:
            return None
        start = from_ms(window.start).astimezone(self._zone)
        return self._window(next(CronSim(self.cron, start, reverse=True)))

    def nth_before(self, window: Window, count: int) -> Window | None:
        """The window `count` (at least 1) before this one; None if that is before the first."""
        start = from_ms(window.start).astimezone(self._zone)
        ticks = CronSim(self.cron, start, reverse=True)
        for _ in range(count):
            start = next(ticks)
            if to_ms(start) < self.first.start:
                return None
        return self._window(start)

    def between(self, first: Window, last: Window) -> Iterator[Window]:
        """The windows from `first` to `last`, both inclusive, in order."""
        window = first
        while window.start <= last.start:
            yield window
            window = self.after(window)

    def _tick_at_or_after(self, moment: datetime) -> datetime:
        return self._next_tick(moment - timedelta(microseconds=1))

    def _next_tick(self, moment: datetime) -> datetime:
        following: datetime = next(CronSim(self.cron, moment))
        return following

    def _window(self, start: datetime) -> Window:
        end = self._next_tick(start)
        return Window(to_ms(start), to_ms(end), start.strftime(self.key_format))


def _ceil_minute(moment: datetime) -> datetime:
    floor = moment.replace(second=0, microsecond=0)
    return floor if floor == moment else floor + timedelta(minutes=1)
