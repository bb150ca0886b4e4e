"""The definitions that Dagster loads: the models and their resources."""

import dagster as dg

from tidemill.defs.loading import load_models
from tidemill.defs.resources import TidemillResource
from tidemill.settings import Settings


@dg.definitions
def defs() -> dg.Definitions:
    """The assets and checks of every model in `TIDEMILL_MODELS`, by default the packaged ones, and
    of the live model of `tidemill up`.

    A run works in its own process: with one step per run, more would gain nothing.
    """
    settings = Settings()
    return dg.Definitions.merge(
        load_models(*settings.model_folders, sensor_status=settings.sensors_default_status),
        dg.Definitions(
            resources={"tidemill": TidemillResource(settings)}, executor=dg.in_process_executor
        ),
    )
