"""Lets a run that is requested early wait, imports done, until the log has closed its window."""

import importlib
import warnings
from contextlib import suppress
from typing import TYPE_CHECKING

import dagster as dg

from tidemill.core.errors import SpecInvalid, TidemillError, WindowOpen
from tidemill.core.windows import Window
from tidemill.polling import wait_until

if TYPE_CHECKING:
    from tidemill.cycle.context import ModelContext

WAIT_TAG = "tidemill/wait_seconds"
"""The run tag for the longest wait, in seconds."""
_POLL_INTERVAL_SECONDS = 0.5
_MODULES_OF_A_WINDOW = (
    "tidemill.cycle.steps.extract",
    "tidemill.cycle.steps.update",
    "tidemill.cycle.steps.evaluate",
    "tidemill.cycle.steps.deploy",
    "tidemill.cycle.operations.prune",
)


def seconds_to_wait(run: dg.DagsterRun) -> float:
    """The seconds in the run's tag; 0 without one. Raises `SpecInvalid`."""
    value = run.tags.get(WAIT_TAG, "0")
    try:
        seconds = float(value)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= 86_400:
        raise SpecInvalid(
            f"{value!r} is not a valid value of the run's tag {WAIT_TAG}.",
            "Set it to a number of seconds, at most 86400.",
        )
    return seconds


def preload(*, tracks: bool) -> None:
    """Import what a window needs, before it is needed; `tracks`: so will the tracker be."""
    from tidemill.core.lightgbm_import import import_lightgbm

    for name in _MODULES_OF_A_WINDOW:
        importlib.import_module(name)
    import_lightgbm()
    if tracks:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # dagster-mlflow warns that it is beta
            importlib.import_module("dagster_mlflow")


def wait_until_closed(ctx: "ModelContext", window: Window, timeout_seconds: float) -> None:
    """Wait until the log has closed the window, and plan it; returns at the timeout at the latest.

    The context is read-only and the model's lock is not held, so manual decisions are possible
    meanwhile. But the run occupies the model's pool, so it never waits for what another run must do
    first; any other obstacle is left for the window's step to report.
    """
    with suppress(TidemillError):
        if _is_next(ctx, window):
            wait_until(lambda: _is_planned(ctx, window), timeout_seconds, _POLL_INTERVAL_SECONDS)


def _is_next(ctx: "ModelContext", window: Window) -> bool:
    """Whether everything before the window is completed."""
    previous = ctx.spec.calendar.before(window)
    if previous is not None:
        return ctx.repository.report(previous.key) is not None
    return ctx.repository.initial_model() is not None


def _is_planned(ctx: "ModelContext", window: Window) -> bool:
    from tidemill.cycle.planning.plan import plan_window

    try:
        plan_window(ctx, window)
    except WindowOpen:
        return False
    return True
