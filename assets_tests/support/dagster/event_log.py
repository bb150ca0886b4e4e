"""Reads Dagster's event log of a harness's model from another process than the writer's."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import dagster as dg

from support.models.harness import ModelHarness

ASSETS = ("kafka_batch", "candidate_model", "evaluation_report", "deployed_model")
CHECKS = {
    "reject_share": "kafka_batch",
    "few_rows": "kafka_batch",
    "timestamps": "kafka_batch",
    "permutation_test": "evaluation_report",
    "golden_rows": "deployed_model",
}
"""The checks of every window, with their assets."""


@contextmanager
def open_instance(harness: ModelHarness) -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.from_config(str(harness.home / "dagster")) as instance:
        yield instance


def materialization_counts(harness: ModelHarness) -> "Counter[tuple[str, str]]":
    """How often each asset of each window was materialized."""
    counts: Counter[tuple[str, str]] = Counter()
    with open_instance(harness) as instance:
        for asset in ASSETS:
            key = dg.AssetKey([harness.model, asset])
            records = instance.fetch_materializations(key, limit=1000).records
            counts.update((asset, str(record.partition_key)) for record in records)
    return counts


def check_counts(harness: ModelHarness) -> "Counter[tuple[str, str, str]]":
    """How often each check of each asset and window was evaluated."""
    kind = dg.DagsterEventType.ASSET_CHECK_EVALUATION
    counts: Counter[tuple[str, str, str]] = Counter()
    with open_instance(harness) as instance:
        for run in instance.get_runs():
            for entry in instance.all_logs(run.run_id, of_type=kind):
                evaluation = entry.get_dagster_event().asset_check_evaluation_data
                counts[
                    evaluation.asset_key.path[-1], evaluation.check_name, str(evaluation.partition)
                ] += 1
    return counts


def metadata(harness: ModelHarness, asset: str, window: str) -> dict[str, dg.MetadataValue]:
    """The metadata of the latest materialization."""
    record_filter = dg.AssetRecordsFilter(
        dg.AssetKey([harness.model, asset]), asset_partitions=[window]
    )
    with open_instance(harness) as instance:
        (record,) = instance.fetch_materializations(record_filter, limit=1).records
    materialization = record.asset_materialization
    assert materialization is not None
    return dict(materialization.metadata)


def run_status_counts(harness: ModelHarness) -> "Counter[str]":
    """How many runs have each status."""
    with open_instance(harness) as instance:
        return Counter(run.status.value for run in instance.get_runs())


def step_failure_message(harness: ModelHarness, run: str) -> str:
    """The error of the failed step of a run."""
    with open_instance(harness) as instance:
        failures = instance.all_logs(run, of_type=dg.DagsterEventType.STEP_FAILURE)
    return " ".join(
        str(entry.get_dagster_event().step_failure_data.user_failure_data) for entry in failures
    )
