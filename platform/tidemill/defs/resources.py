"""The resource of the assets: the context of a model, and the steps of an update."""

import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import dagster as dg

from tidemill.core.spec import ModelSpec
from tidemill.core.windows import Window
from tidemill.defs.run_tracking import RunTracker, TrackedRun

if TYPE_CHECKING:  # these import polars and LightGBM, which only a run needs
    from tidemill.core.deployment import Deployment
    from tidemill.core.records import Candidate, InitialModel, Manifest, PruneMarker
    from tidemill.core.report_records import Report
    from tidemill.cycle.context import ModelContext


@dataclass(frozen=True)
class Steps:
    """The steps of one update, as implemented in `tidemill.cycle`."""

    initial: "Callable[[ModelContext], InitialModel]"
    extract: "Callable[[ModelContext, Window], Manifest]"
    update: "Callable[[ModelContext, Window], Candidate]"
    evaluate: "Callable[[ModelContext, Window], Report]"
    deploy: "Callable[[ModelContext, Window, bool], Deployment]"
    prune: "Callable[[ModelContext, Window], PruneMarker | None]"


class TidemillResource(dg.ConfigurableResource[None]):
    """Opens models with the settings of this process (`TIDEMILL_…`)."""

    def open(self, spec: ModelSpec) -> "AbstractContextManager[ModelContext]":
        """The model's context with the real adapters, under the model's exclusive lock.

        Raises `AlreadyRunning`, `LogUnavailable`, and what settings and adapters raise.
        """
        from tidemill import bootstrap
        from tidemill.settings import Settings

        return bootstrap.open_model(spec, Settings(), exclusive=True)

    def open_readonly(self, spec: ModelSpec) -> "AbstractContextManager[ModelContext]":
        """The same for reading, without the lock; no broker is started."""
        from tidemill import bootstrap
        from tidemill.settings import Settings

        return bootstrap.open_model(spec, Settings(), start=False)

    def run_tracker(
        self, ctx: "ModelContext", run: dg.DagsterRun, instance: dg.DagsterInstance
    ) -> RunTracker:
        """The tracker of this Dagster run, with the settings of this process."""
        from tidemill import bootstrap
        from tidemill.settings import Settings

        settings = Settings()
        tracked_run = TrackedRun(run, instance, settings.dagster.ui_url)
        return RunTracker(ctx, tracked_run, partial(bootstrap.make_tracker, settings))

    def preload(self) -> None:
        """Import what a window needs, before it is needed."""
        from tidemill import bootstrap
        from tidemill.core.lightgbm_import import import_lightgbm
        from tidemill.settings import Settings

        self.steps()
        import_lightgbm()
        if bootstrap.make_tracker(Settings()) is not None:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # dagster-mlflow warns that it is beta
                import dagster_mlflow  # noqa: F401

    def steps(self) -> Steps:
        """The real steps, imported on demand because they load polars and LightGBM."""
        from tidemill.cycle.operations.prune import prune
        from tidemill.cycle.steps.deploy import deploy
        from tidemill.cycle.steps.evaluate import evaluate
        from tidemill.cycle.steps.extract import extract
        from tidemill.cycle.steps.initial import initial
        from tidemill.cycle.steps.update import update

        return Steps(initial, extract, update, evaluate, deploy, prune)
