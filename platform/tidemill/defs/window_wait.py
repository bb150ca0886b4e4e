"""A run that is asked for early waits for the log to close its window, with all imports done."""

import time
from typing import TYPE_CHECKING

import dagster as dg

from tidemill.core.errors import SpecInvalid, TidemillError, WindowOpen
from tidemill.core.windows import Window

if TYPE_CHECKING:
    from tidemill.cycle.context import ModelContext

WAIT_TAG = "tidemill/wait_seconds"
"""The tag of a run that waits: for how many seconds, at most."""
_POLL_INTERVAL_SECONDS = 0.5


def seconds_to_wait(run: dg.DagsterRun) -> float:
    """What the run's tag says; 0 without one. Raises `SpecInvalid`."""
    value = run.tags.get(WAIT_TAG, "0")
    try:
        seconds = float(value)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= 86_400:
        raise SpecInvalid(
            f"The run's tag {WAIT_TAG} is {value!r}.", "Give it a number of seconds, at most a day."
        )
    return seconds


def wait_until_closed(ctx: "ModelContext", window: Window, timeout_seconds: float) -> None:
    """Wait until the log has closed the window, and plan it; not longer than this.

    The mill only looks: the model's lock is not held, so people decide meanwhile. But the run's
    place in the model's pool is, so nothing is waited for that another run must do first, and
    whatever else stands in the window's way is left for its step to say.
    """
    deadline = time.monotonic() + timeout_seconds
    try:
        if not _is_next(ctx, window):
            return
        while not _is_planned(ctx, window) and time.monotonic() < deadline:
            time.sleep(_POLL_INTERVAL_SECONDS)
    except TidemillError:
        return


def _is_next(ctx: "ModelContext", window: Window) -> bool:
    """Whether all before the window is done."""
    previous = ctx.spec.calendar.before(window)
    if previous is not None:
        return ctx.repository.report(previous.key) is not None
    return ctx.repository.initial_model() is not None


def _is_planned(ctx: "ModelContext", window: Window) -> bool:
    from tidemill.cycle.plan import plan_window

    try:
        plan_window(ctx, window)
    except WindowOpen:
        return False
    return True
