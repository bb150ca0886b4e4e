"""Everything that Dagster loads: the models of one folder, and what they work with."""

import dagster as dg

from tidemill.defs.loading import load_models
from tidemill.defs.resources import TidemillResource
from tidemill.settings import Settings


@dg.definitions
def defs() -> dg.Definitions:
    """The assets and checks of every model in `TIDEMILL_MODELS`, by default this package's, and of
    the live one of `tidemill up`.

    A run works in its own process: one step a run has nothing to gain from more.
    """
    return dg.Definitions.merge(
        load_models(*Settings().model_folders),
        dg.Definitions(resources={"mills": TidemillResource()}, executor=dg.in_process_executor),
    )
