"""An asset that does nothing, but yields as many events as a window of a model."""

from collections.abc import Iterator

import dagster as dg

CHECKS = {
    "batch": ("rejects", "rows"),
    "candidate": (),
    "report": ("permutation_test",),
    "deployed": ("golden_rows", "mlflow_record"),
}
"""The four assets of a window, with as many checks as tidemill's."""

AssetEvent = dg.AssetMaterialization | dg.AssetCheckEvaluation | dg.AssetObservation


@dg.multi_asset(
    specs=[dg.AssetSpec(name, skippable=True) for name in CHECKS],
    check_specs=[
        dg.AssetCheckSpec(check, asset=name) for name, checks in CHECKS.items() for check in checks
    ],
    partitions_def=dg.DailyPartitionsDefinition("2013-02-01", end_date="2014-01-01"),
    backfill_policy=dg.BackfillPolicy.single_run(),
    can_subset=True,
)
def empty(context: dg.AssetExecutionContext) -> Iterator[AssetEvent]:
    window = context.partition_key
    for name, checks in CHECKS.items():
        yield dg.AssetMaterialization(name, partition=window)
        for check in checks:
            yield dg.AssetCheckEvaluation(
                asset_key=dg.AssetKey(name), check_name=check, passed=True, partition=window
            )
    yield dg.AssetObservation("topic", partition=window)


defs = dg.Definitions(assets=[empty], executor=dg.in_process_executor)
