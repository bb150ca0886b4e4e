"""Keeps the tracker's record during one Dagster run, and never stands in the run's way."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

import dagster as dg

from tidemill.core.errors import TidemillError, TrackerUnavailable
from tidemill.core.windows import Window

if TYPE_CHECKING:
    from tidemill.adapters.mlflow import MlflowTracker
    from tidemill.cycle.mill import ModelContext
    from tidemill.cycle.record import Recorder
    from tidemill.ports import Tracker

T = TypeVar("T")


@dataclass(frozen=True)
class Asked:
    """The Dagster run that is recorded, and where people see Dagster."""

    run: dg.DagsterRun
    instance: dg.DagsterInstance
    ui: str

    @property
    def tags(self) -> dict[str, str]:
        address = f"{self.ui.rstrip('/')}/runs/{self.run.run_id}"
        return {"dagster.run_id": self.run.run_id, "dagster.run": address}


@dataclass
class Keeper:
    """Records windows and deployments. `tracker` is asked for at the first record: it is heavy.

    After the first failure it only remembers what was wrong (`trouble`): a tracker that hangs must
    not cost its timeout in every window. `off` says that no record is wanted.
    """

    mill: "ModelContext"
    asked: Asked
    tracker: "Callable[[], Tracker | None]"
    trouble: TidemillError | None = None
    off: bool = False
    _recorder: "Recorder | None" = None
    _stack: ExitStack = field(default_factory=ExitStack)

    def window(self, window: Window) -> str | None:
        """Record a window that was reported; where people see it."""
        return self._try(lambda recorder: recorder.record_window(window))

    def written(self) -> None:
        """Wait for the record of the last window, or see why there is none (`trouble`)."""
        if self._recorder is not None:
            self._try(lambda recorder: recorder.flush())

    def deployments(self) -> None:
        """Let registry and alias follow the ledger."""
        self._try(lambda recorder: recorder.record_deployments())

    def close(self, success: bool) -> None:
        """Let the tracker's run of this Dagster run end as that did."""
        self.written()
        if self._recorder is not None and self._recorder.parent_run_id is not None:
            parent = self._recorder.parent_run_id
            self._try(lambda recorder: recorder.tracker.end_run(parent, success))
        self._stack.close()

    def _try(self, act: "Callable[[Recorder], T]") -> T | None:
        if self.trouble is not None or self.off:
            return None
        try:
            recorder = self._recorder or self._begin()
            return act(recorder) if recorder else None
        except TidemillError as error:
            self.trouble = error
        except Exception as error:  # whatever it is: a deployment never waits for its record
            self.trouble = TrackerUnavailable(
                f"The record failed: {_innermost(error)}.",
                "Look at MLflow, and at this run's log. What is missing is made up for by the next "
                "run, or by `tidemill verify MODEL --repair`.",
            )
        return None

    def _begin(self) -> "Recorder | None":
        tracker = self.tracker()
        self.off = tracker is None
        if tracker is None:
            return None
        from tidemill.adapters.mlflow import MlflowTracker
        from tidemill.cycle.record import Recorder

        parent = None
        if isinstance(tracker, MlflowTracker):
            with tracker.translate_errors("begin the run of this Dagster run"):
                opened = _parent(tracker, self.mill.model, self.asked)
                parent = self._stack.enter_context(opened)
        self._recorder = Recorder(self.mill, tracker, parent, self.asked.tags)
        return self._recorder


def _innermost(error: BaseException) -> str:
    """What is behind an error that Dagster has wrapped, in one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:300]}"


@contextmanager
def _parent(tracker: "MlflowTracker", model: str, asked: Asked) -> Iterator[str]:
    """The id of MLflow's run of a Dagster run, as dagster-mlflow makes or finds it.

    It works on MLflow's global state, which is left without an active run: another Dagster run of
    this process must not be taken for this one.
    """
    import mlflow

    tracker.experiment_id(model)  # else it makes one, with its artifacts in the working directory
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # dagster-mlflow is beta, and says so at each import
        from dagster_mlflow import mlflow_tracking

        config = {
            "experiment_name": model,
            "mlflow_tracking_uri": tracker.uri,
            "extra_tags": {"tidemill.model": model},
        }
        try:
            with dg.build_resources(
                {"mlflow": mlflow_tracking},
                instance=asked.instance,
                resource_config={"mlflow": {"config": config}},
                dagster_run=asked.run,
            ):
                active = mlflow.active_run()
                assert active is not None  # dagster-mlflow has just begun it
        finally:
            with suppress(Exception):  # it is no longer active even if MLflow is not told
                mlflow.end_run("RUNNING")
    yield str(active.info.run_id)
