"""The simulated events as an asset with one partition per window; each event is produced once."""

import re
from typing import TYPE_CHECKING

import dagster as dg

from tidemill.core.errors import TidemillError
from tidemill.core.spec import ModelSpec
from tidemill.core.windows import Window
from tidemill.defs.dagster_compat import suppress_dagster_warnings
from tidemill.defs.external_assets import OWNERS
from tidemill.defs.partitions import partitions_of, requested_windows
from tidemill.defs.resources import TidemillResource
from tidemill.defs.windowed_assets import failure

if TYPE_CHECKING:
    from tidemill.simulation.produce import ProduceResult

_FLIGHTS_TOPIC = re.compile(r"flights(-[A-Za-z0-9._-]+)?")
"""The topics for which the packaged flights are simulated."""


@suppress_dagster_warnings  # backfill policies are beta
def build_simulated_events(spec: ModelSpec) -> list[dg.AssetsDefinition]:
    """`simulated_events` if the topic is `flights` or starts with `flights-`; otherwise nothing."""
    if not _FLIGHTS_TOPIC.fullmatch(spec.topic):
        return []
    partitions = partitions_of(spec.calendar, include_open=True)

    @dg.asset(
        key=[spec.name, "simulated_events"],
        description="The simulated events that are due before the window's end and not yet in the "
        "topic. Until that end, each is sent when it is due.",
        partitions_def=partitions,
        group_name=spec.name,
        owners=OWNERS,
        kinds={"kafka"},
        pool=f"tidemill_{spec.name}_simulated_events",
        backfill_policy=dg.BackfillPolicy.single_run(),
    )
    def simulated_events(
        context: dg.AssetExecutionContext, tidemill: dg.ResourceParam[TidemillResource]
    ) -> dg.MaterializeResult[None]:
        try:
            window = requested_windows(spec.calendar, partitions, context)[-1]
            result = _produce(tidemill, spec, window)
        except TidemillError as error:
            raise failure(error) from error
        return dg.MaterializeResult(
            metadata={
                "topic": result.topic,
                "produced": result.produced,
                "already_present": result.already_present,
                "last_event_by_partition": dg.MetadataValue.json(
                    {str(p): n for p, n in result.last_seq.items()}
                ),
            }
        )

    return [simulated_events]


def _produce(tidemill: TidemillResource, spec: ModelSpec, window: Window) -> "ProduceResult":
    from tidemill.simulation.time_scale import TimeScale, produce_until

    time_scale = TimeScale.for_spec(spec)
    with tidemill.kafka_cluster() as cluster:
        return produce_until(
            cluster,
            spec.topic,
            time_scale,
            time_scale.flights_time(window.end),
            tidemill.settings.home / "locks",
        )
