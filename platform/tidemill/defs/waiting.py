"""A run that is asked for early waits for the log to close its window, with all imports done."""

import time
from typing import TYPE_CHECKING

import dagster as dg

from tidemill.core.errors import SpecInvalid, TidemillError, WindowOpen
from tidemill.core.windows import Window

if TYPE_CHECKING:
    from tidemill.cycle.mill import ModelContext

WAIT_TAG = "tidemill/wait"
"""The tag of a run that waits: for how many seconds, at most."""
_LOOK = 0.5


def seconds_to_wait(run: dg.DagsterRun) -> float:
    """What the run's tag says; 0 without one. Raises `SpecInvalid`."""
    told = run.tags.get(WAIT_TAG, "0")
    try:
        seconds = float(told)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= 86_400:
        raise SpecInvalid(
            f"The run's tag {WAIT_TAG} is {told!r}.", "Give it a number of seconds, at most a day."
        )
    return seconds


def await_closed(mill: "ModelContext", window: Window, seconds: float) -> None:
    """Wait until the log has closed the window, and plan it; not longer than this.

    The mill only looks: the model's lock is not held, so people decide meanwhile. But the run's
    place in the model's pool is, so nothing is waited for that another run must do first, and
    whatever else stands in the window's way is left for its step to say.
    """
    until = time.monotonic() + seconds
    try:
        if not _next(mill, window):
            return
        while not _planned(mill, window) and time.monotonic() < until:
            time.sleep(_LOOK)
    except TidemillError:
        return


def _next(mill: "ModelContext", window: Window) -> bool:
    """Whether all before the window is done."""
    before = mill.spec.calendar.before(window)
    if before is not None:
        return mill.repository.report(before.key) is not None
    return mill.repository.initial_model() is not None


def _planned(mill: "ModelContext", window: Window) -> bool:
    from tidemill.cycle.plan import plan_window

    try:
        plan_window(mill, window)
    except WindowOpen:
        return False
    return True
