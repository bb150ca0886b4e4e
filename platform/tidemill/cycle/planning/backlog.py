"""The backlog: the windows that the log has closed and that are not processed yet."""

from dataclasses import dataclass

from tidemill.core.plans import INITIAL_KEY, Plan
from tidemill.core.windows import Window
from tidemill.cycle.context import ModelContext
from tidemill.cycle.ledger import has_pending_deployment
from tidemill.cycle.planning.plan import newest_closed, plan_initial


@dataclass(frozen=True)
class Backlog:
    """The positions of the log and the model.

    `done` is the newest window with a report, None if there is none. `first` to `last`, both
    inclusive, are due; both are None if none is. `closed` is the newest window that the log has
    closed, and `open_reason` says why the next one is open.
    """

    done: Window | None
    first: Window | None
    last: Window | None
    closed: Window | None
    open_reason: str


def compute_backlog(ctx: ModelContext, hint: str | None = None) -> Backlog:
    """Which windows are due; plans nothing but the offsets before the first window.

    `hint` is the key of a window that is known to have a report; the search starts there. Raises
    `WindowOpen` if the log has not reached the first window, and what planning raises.
    """
    calendar = ctx.spec.calendar
    done = _newest_reported(ctx, hint)
    plan = _newest_plan(ctx, done)
    newest, open_reason = newest_closed(ctx, plan)
    if newest is None and plan.window != INITIAL_KEY:
        newest = calendar.window(plan.window)
    first = calendar.after(done) if done else calendar.first
    if done is not None and has_pending_deployment(ctx, done):
        first = done
    if newest is None or newest.start < first.start:
        return Backlog(done, None, None, newest, open_reason)
    return Backlog(done, first, newest, newest, open_reason)


def _newest_reported(ctx: ModelContext, hint: str | None) -> Window | None:
    """The newest reported window. Every report needs the previous one, so there are no gaps."""
    calendar = ctx.spec.calendar
    if hint is None or ctx.repository.report(hint) is None:
        newest = ctx.records.newest_report()
        if newest is None:
            return None
        hint = newest.window
    done = calendar.window(hint)
    while ctx.repository.report((following := calendar.after(done)).key) is not None:
        done = following
    return done


def _newest_plan(ctx: ModelContext, done: Window | None) -> Plan:
    """The newest plan; windows may be planned before they have a report."""
    calendar = ctx.spec.calendar
    newest = ctx.repository.plan(done.key) if done else None
    newest = newest or plan_initial(ctx)
    window = calendar.after(done) if done else calendar.first
    while (following := ctx.repository.plan(window.key)) is not None:
        newest, window = following, calendar.after(window)
    return newest


@dataclass(frozen=True)
class Freshness:
    """How far the model in service is behind, by the clock that the spec names.

    `lag_ms` is the time in milliseconds from the end of the newest processed window (`done`; before
    that, from the first window's start) to that clock; `newest_due` is the newest window that ended
    by the clock. Processing an older window late changes neither.
    """

    fresh: bool
    lag_ms: int
    limit_ms: int
    newest_due: Window | None
    done: Window | None

    def __str__(self) -> str:
        through = f"window {self.done}" if self.done else "no window"
        return (
            f"The model in service has learned through {through} and is {self.lag_ms / 1000:.0f} s "
            f"behind; the limit is {self.limit_ms / 1000:.0f} s."
        )


def freshness(ctx: ModelContext, backlog: Backlog) -> Freshness:
    """Whether the newest due window was processed in time.

    By the wall clock, a window is due as soon as it has ended; by event time, for a simulated
    stream, as soon as the log has closed it. A window whose deployment is pending is not done.
    """
    calendar = ctx.spec.calendar
    spec = ctx.spec.freshness
    done = backlog.done
    if done is not None and backlog.first == done:
        done = calendar.before(done)
    if spec.clock == "event_time":
        newest = backlog.closed
        now = newest.end if newest else calendar.first.start
    else:
        now = ctx.clock()
        current_window = calendar.containing(now)
        newest = calendar.before(current_window) if current_window else None
    sample = newest or calendar.first
    limit_ms = spec.max_lag if spec.max_lag is not None else 2 * (sample.end - sample.start)
    lag_ms = max(0, now - (done.end if done else calendar.first.start))
    return Freshness(lag_ms <= limit_ms, lag_ms, limit_ms, newest, done)
