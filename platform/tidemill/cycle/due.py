"""What is due: the windows that the log has closed and nobody has worked through yet."""

from dataclasses import dataclass

from tidemill.core.plans import INITIAL_KEY, Plan
from tidemill.core.windows import Window, from_ms
from tidemill.cycle.deploy import outstanding
from tidemill.cycle.intervene import newest_report
from tidemill.cycle.mill import Mill
from tidemill.cycle.plan import newest_closed, plan_initial


@dataclass(frozen=True)
class Due:
    """How far the log and the model have come.

    `done` is the newest window that was reported, None for none; `first` to `last`, both
    inclusive, are to be worked through: both None where nothing is. `closed` is the newest window
    that the log has closed, and `open_because` says why the one after it is open.
    """

    done: Window | None
    first: Window | None
    last: Window | None
    closed: Window | None
    open_because: str


def due(mill: Mill, hint: str | None = None) -> Due:
    """Which windows are due; nothing is planned for it but the offsets before the first window.

    `hint` is the key of a window that was known to be reported, from which the search goes on.
    Raises `WindowOpen` where the log has not come to the first window, and as planning does.
    """
    calendar = mill.spec.calendar
    done = _done(mill, hint)
    planned = _newest_plan(mill, done)
    newest, open_because = newest_closed(mill, planned)
    if newest is None and planned.window != INITIAL_KEY:
        newest = calendar.window(planned.window)
    first = calendar.after(done) if done else calendar.first
    if done is not None and outstanding(mill, done):
        first = done
    if newest is None or newest.start < first.start:
        return Due(done, None, None, newest, open_because)
    return Due(done, first, newest, newest, open_because)


def _done(mill: Mill, hint: str | None) -> Window | None:
    """The newest reported window: each report names the one before, so there are no holes."""
    calendar = mill.spec.calendar
    if hint is None or mill.archive.report(hint) is None:
        newest = newest_report(mill)
        if newest is None:
            return None
        hint = newest.window
    done = calendar.window(hint)
    while mill.archive.report((after := calendar.after(done)).key) is not None:
        done = after
    return done


def _newest_plan(mill: Mill, done: Window | None) -> Plan:
    """The newest plan; windows may be planned that are not reported."""
    calendar = mill.spec.calendar
    found = mill.archive.plan(done.key) if done else None
    found = found or plan_initial(mill)
    window = calendar.after(done) if done else calendar.first
    while (after := mill.archive.plan(window.key)) is not None:
        found, window = after, calendar.after(window)
    return found


@dataclass(frozen=True)
class Freshness:
    """How far the model in service is behind, by the clock that the spec names.

    `lag` is milliseconds from the end of the newest window that was worked through (`done`; before
    the first, from the first window's start) to the clock; `newest_due` is the newest window that
    ended by that clock. Another window's work, however late it was done, changes neither.
    """

    fresh: bool
    lag: int
    limit: int
    newest_due: Window | None
    done: Window | None

    def __str__(self) -> str:
        through = f"window {self.done}" if self.done else "no window"
        return (
            f"The model in service has learned through {through} and is {self.lag / 1000:.0f} s "
            f"behind; the limit is {self.limit / 1000:.0f} s."
        )


def freshness(mill: Mill, seen: Due) -> Freshness:
    """Whether the newest window that is due was worked through in time.

    By the wall clock a window is due as soon as it has ended; by the log's clock, for a stream that
    is replayed, as soon as the log has closed it. A window whose deployment is outstanding is not
    done.
    """
    calendar, spec = mill.spec.calendar, mill.spec.freshness
    done = seen.done
    if done is not None and seen.first == done:
        done = calendar.before(done)
    if spec.clock == "log":
        newest = seen.closed
        now = newest.end if newest else calendar.first.start
    else:
        now = mill.now()
        inside = calendar.containing(now)
        newest = calendar.before(inside) if inside else None
    sample = newest or calendar.first
    limit = spec.max_lag if spec.max_lag is not None else 2 * (sample.end - sample.start)
    lag = max(0, now - (done.end if done else calendar.first.start))
    return Freshness(lag <= limit, lag, limit, newest, done)


def come_to(seen: Due) -> str:
    """How far the log has come, for people."""
    if seen.closed is None:
        return "the log has closed no window yet"
    return f"the log has closed window {seen.closed}, up to {from_ms(seen.closed.end).isoformat()}"
