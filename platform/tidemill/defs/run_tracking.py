"""Records one Dagster run in the tracker; a failure of the tracker never fails the run."""

import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import dagster as dg

from tidemill.core.errors import TidemillError, TrackerUnavailable
from tidemill.core.windows import Window

if TYPE_CHECKING:
    from tidemill.cycle.context import ModelContext
    from tidemill.cycle.tracking import Recorder
    from tidemill.ports import Tracker

T = TypeVar("T")


@dataclass(frozen=True)
class TrackedRun:
    """The Dagster run that is recorded, and the address of Dagster's UI."""

    run: dg.DagsterRun
    instance: dg.DagsterInstance
    ui_url: str

    @property
    def tags(self) -> dict[str, str]:
        run_url = f"{self.ui_url.rstrip('/')}/runs/{self.run.run_id}"
        return {"dagster.run_id": self.run.run_id, "dagster.run": run_url}


@dataclass
class RunTracker:
    """Records windows and deployments; the tracker is created on demand, since it is slow to load.

    After the first failure, which `error` holds, nothing more is recorded: a tracker that hangs
    must not cost its timeout at every window. `disabled` means that tracking is turned off.
    """

    ctx: "ModelContext"
    tracked_run: TrackedRun
    make_tracker: "Callable[[], Tracker | None]"
    error: TidemillError | None = None
    disabled: bool = False
    _recorder: "Recorder | None" = None

    def record_window(self, window: Window) -> str | None:
        """Record a reported window; returns the URL of its run, None if it was not recorded."""
        return self._try(lambda recorder: recorder.record_window(window))

    def flush(self) -> None:
        """Wait until the last window is recorded; a failure sets `error`."""
        if self._recorder is not None:
            self._try(lambda recorder: recorder.flush())

    def record_deployments(self) -> None:
        """Update the model registry and its alias from the ledger."""
        self._try(lambda recorder: recorder.record_deployments())

    def close(self, success: bool) -> None:
        """End the tracker's run of this Dagster run with the same result."""
        self.flush()
        if self._recorder is not None and self._recorder.parent_run_id is not None:
            parent = self._recorder.parent_run_id
            self._try(lambda recorder: recorder.tracker.end_run(parent, success))

    def _try(self, action: "Callable[[Recorder], T]") -> T | None:
        if self.error is not None or self.disabled:
            return None
        try:
            recorder = self._recorder or self._open_recorder()
            return action(recorder) if recorder else None
        except TidemillError as error:
            self.error = error
        except Exception as error:  # any kind: a deployment never depends on its record
            self.error = TrackerUnavailable(
                f"Recording in MLflow failed: {_root_cause(error)}.",
                "Check MLflow and this run's log. The next run, or `tidemill verify MODEL "
                "--repair`, fills the gaps.",
            )
        return None

    def _open_recorder(self) -> "Recorder | None":
        tracker = self.make_tracker()
        self.disabled = tracker is None
        if tracker is None:
            return None
        from tidemill.cycle.tracking import Recorder

        start = partial(_start_parent_run, self.tracked_run, self.ctx.model)
        parent = tracker.start_parent_run(self.ctx.model, start)
        self._recorder = Recorder(self.ctx, tracker, parent, self.tracked_run.tags)
        return self._recorder


def _root_cause(error: BaseException) -> str:
    """The root cause of an error that Dagster has wrapped, in one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:300]}"


def _start_parent_run(tracked_run: TrackedRun, model: str, tracking_uri: str) -> str:
    """The id of MLflow's run of a Dagster run, as dagster-mlflow creates or finds it.

    dagster-mlflow uses MLflow's global state, which is left without an active run, so that another
    Dagster run of this process is not recorded in this run.
    """
    import mlflow

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # dagster-mlflow warns at import that it is beta
        from dagster_mlflow import mlflow_tracking

        config = {
            "experiment_name": model,
            "mlflow_tracking_uri": tracking_uri,
            "extra_tags": {"tidemill.model": model},
        }
        try:
            with dg.build_resources(
                {"mlflow": mlflow_tracking},
                instance=tracked_run.instance,
                resource_config={"mlflow": {"config": config}},
                dagster_run=tracked_run.run,
            ):
                active = mlflow.active_run()
                assert active is not None  # dagster-mlflow has just started it
        finally:
            with suppress(Exception):  # it is no longer active even if MLflow cannot be reached
                mlflow.end_run("RUNNING")
    return str(active.info.run_id)
