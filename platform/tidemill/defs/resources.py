"""What the assets work with: the opened mill of a model, and the five steps of an update."""

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
    from tidemill.core.records import Candidate, InitialModel, Manifest, PruneMarker
    from tidemill.core.report import Report
    from tidemill.cycle.context import ModelContext
    from tidemill.cycle.deploy import Deployment


@dataclass(frozen=True)
class Steps:
    """The steps of one update, as `tidemill.cycle` has them."""

    initial: "Callable[[ModelContext], InitialModel]"
    extract: "Callable[[ModelContext, Window], Manifest]"
    update: "Callable[[ModelContext, Window], Candidate]"
    evaluate: "Callable[[ModelContext, Window], Report]"
    deploy: "Callable[[ModelContext, Window, bool], Deployment]"
    prune: "Callable[[ModelContext, Window], PruneMarker | None]"


class TidemillResource(dg.ConfigurableResource[None]):
    """Opens the mill of a model by the settings of this process (`TIDEMILL_…`)."""

    def open(self, model: str, spec: ModelSpec) -> "AbstractContextManager[ModelContext]":
        """The model's mill over the real adapters, alone at work on that model.

        Raises `AlreadyRunning`, `LogUnavailable`, and what settings and adapters raise.
        """
        from tidemill import bootstrap
        from tidemill.settings import Settings

        return bootstrap.open_model(model, Settings(), spec=spec, exclusive=True)

    def open_readonly(self, model: str, spec: ModelSpec) -> "AbstractContextManager[ModelContext]":
        """The same for looking only, whoever is at work on the model; no broker is started."""
        from tidemill import bootstrap
        from tidemill.settings import Settings

        return bootstrap.open_model(model, Settings(), spec=spec, start=False)

    def run_tracker(
        self, ctx: "ModelContext", run: dg.DagsterRun, instance: dg.DagsterInstance
    ) -> RunTracker:
        """Who keeps the record of this Dagster run, by the settings of this process."""
        from tidemill import bootstrap
        from tidemill.settings import Settings

        settings = Settings()
        tracked_run = TrackedRun(run, instance, settings.dagster.ui_url)
        return RunTracker(ctx, tracked_run, partial(bootstrap.make_tracker, settings))

    def preload(self) -> None:
        """Import what a window needs, while there is time."""
        from tidemill import bootstrap
        from tidemill.core.lightgbm_import import import_lightgbm
        from tidemill.settings import Settings

        self.steps()
        import_lightgbm()
        if bootstrap.make_tracker(Settings()) is not None:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # dagster-mlflow is beta, and says so
                import dagster_mlflow  # noqa: F401

    def steps(self) -> Steps:
        """The real steps; imported here, since they load polars and LightGBM."""
        from tidemill.cycle.deploy import deploy
        from tidemill.cycle.evaluate import evaluate
        from tidemill.cycle.extract import extract
        from tidemill.cycle.initial import initial
        from tidemill.cycle.prune import prune
        from tidemill.cycle.update import update

        return Steps(initial, extract, update, evaluate, deploy, prune)
