"""The asset graph of one model: `initial_model`, and one multi-asset of four windowed assets."""

from collections.abc import Iterator

import dagster as dg

from tidemill.core.errors import SpecInvalid, TidemillError
from tidemill.core.spec import ModelSpec
from tidemill.defs.checks import check_specs
from tidemill.defs.dagster_compat import suppress_dagster_warnings
from tidemill.defs.external_assets import OWNERS, history_key, topic_key
from tidemill.defs.freshness import freshness_policy
from tidemill.defs.metadata import initial_metadata
from tidemill.defs.partitions import partitions_of, requested_windows
from tidemill.defs.resources import TidemillResource
from tidemill.defs.run_tracking import RunTracker, TrackedRun
from tidemill.defs.window_wait import preload, seconds_to_wait, wait_until_closed
from tidemill.defs.windowed_assets import (
    WINDOW_ASSETS,
    Event,
    RunContext,
    failure,
    materialize_windows,
)

DEPLOY_TAG = "tidemill/deploy"
"""The run tag that overrides `deploy:` of defs.yaml: `each` or `last`."""

_DESCRIPTIONS = {
    "kafka_batch": "The rows of one window, read from the topic and stored once, with a manifest.",
    "candidate_model": "The model after learning from the window's batch: a pure function of the "
    "data, independent of the gate's verdict.",
    "evaluation_report": "Champion and challenger scored on the same rows, from which neither has "
    "learned, with the gate's verdict and its reasons.",
    "deployed_model": "The applied verdict: a ledger entry, written after the model was validated.",
}
_KINDS = {
    "kafka_batch": {"kafka", "parquet"},
    "candidate_model": {"lightgbm"},
    "evaluation_report": {"python"},
    "deployed_model": {"kafka"},
}
_UPSTREAM: dict[str, tuple[str, ...]] = {
    "kafka_batch": (),
    "candidate_model": ("kafka_batch", "initial_model"),
    "evaluation_report": ("candidate_model", "kafka_batch"),
    "deployed_model": ("evaluation_report",),
}
_SELF_DEPENDENT = ("kafka_batch", "candidate_model", "evaluation_report")


@suppress_dagster_warnings  # backfill policies and the first window's mapping are beta
def build_assets(spec: ModelSpec) -> list[dg.AssetsDefinition]:
    """The five assets of a model, under its name as key prefix."""
    return [_initial_asset(spec), _windowed_assets(spec)]


def pool_of(model: str) -> str:
    """The concurrency pool that runs of one model share."""
    return f"tidemill_{model}"


def _initial_asset(spec: ModelSpec) -> dg.AssetsDefinition:
    @dg.asset(
        key=[spec.name, "initial_model"],
        deps=[history_key(spec)],
        description="The model trained from historical data: the first champion and baseline. "
        "Materializing it again from the same data changes nothing.",
        group_name=spec.name,
        owners=OWNERS,
        kinds={"lightgbm"},
        pool=pool_of(spec.name),
        backfill_policy=dg.BackfillPolicy.single_run(),  # a CLI range requires it of all assets
    )
    def initial_model(tidemill: dg.ResourceParam[TidemillResource]) -> dg.MaterializeResult[None]:
        from tidemill.cycle.steps.initial import initial

        try:
            with tidemill.open(spec) as ctx:
                return dg.MaterializeResult(metadata=initial_metadata(initial(ctx)))
        except TidemillError as error:
            raise failure(error) from error

    return initial_model


def _windowed_assets(spec: ModelSpec) -> dg.AssetsDefinition:
    partitions = partitions_of(spec.calendar)

    @dg.multi_asset(
        name=f"{spec.name}_windows",
        specs=_specs(spec),
        check_specs=check_specs(spec.name),
        partitions_def=partitions,
        backfill_policy=dg.BackfillPolicy.single_run(),
        can_subset=True,
        pool=pool_of(spec.name),
    )
    def windows(
        context: dg.AssetExecutionContext, tidemill: dg.ResourceParam[TidemillResource]
    ) -> Iterator[Event]:
        try:
            selected = frozenset(key.path[-1] for key in context.selected_asset_keys)
            requested = requested_windows(spec.calendar, partitions, context)
            deploy = _deploy_mode(spec, context.run.tags.get(DEPLOY_TAG))
            if wait_seconds := seconds_to_wait(context.run):
                preload(tracks=tidemill.tracker() is not None)
                with tidemill.open_readonly(spec) as ctx:
                    wait_until_closed(ctx, requested[0], wait_seconds)
            with tidemill.open(spec) as ctx:
                ui_url = tidemill.settings.dagster.ui_url
                tracked_run = TrackedRun(context.run, context.instance, ui_url)
                run_tracker = RunTracker(ctx, tracked_run, tidemill.tracker)
                run = RunContext(ctx, run_tracker, selected, deploy_each=deploy == "each")
                yield from materialize_windows(run, requested)
        except TidemillError as error:  # before the first window; later errors name their window
            raise failure(error) from error

    return windows


def _specs(spec: ModelSpec) -> list[dg.AssetSpec]:
    return [
        dg.AssetSpec(
            [spec.name, name],
            deps=_deps(spec, name),
            description=_DESCRIPTIONS[name],
            group_name=spec.name,
            owners=OWNERS,
            kinds=_KINDS[name],
            freshness_policy=freshness_policy(spec),
            skippable=True,
        )
        for name in WINDOW_ASSETS
    ]


def _deps(spec: ModelSpec, name: str) -> list[dg.AssetDep]:
    deps = [dg.AssetDep([spec.name, upstream]) for upstream in _UPSTREAM[name]]
    if name == "kafka_batch":
        deps.append(dg.AssetDep(topic_key(spec)))
    if name in _SELF_DEPENDENT:
        previous_window = dg.TimeWindowPartitionMapping(
            start_offset=-1, end_offset=-1, allow_nonexistent_upstream_partitions=True
        )
        deps.append(dg.AssetDep([spec.name, name], partition_mapping=previous_window))
    return deps


def _deploy_mode(spec: ModelSpec, tag: str | None) -> str:
    if tag not in (None, "each", "last"):
        raise SpecInvalid(
            f"{tag!r} is not a valid value of the run's tag {DEPLOY_TAG}.",
            "Set it to each or last.",
        )
    return tag or spec.deploy
