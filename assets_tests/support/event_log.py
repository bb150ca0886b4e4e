"""What Dagster's own event log has of a bench's model, read by a process that did not write it."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import dagster as dg

from bench import Bench

ASSETS = ("kafka_batch", "candidate_model", "evaluation_report", "deployed_model")
CHECKS = {
    "reject_share": "kafka_batch",
    "few_rows": "kafka_batch",
    "timestamps": "kafka_batch",
    "pairing_skill": "evaluation_report",
    "golden_rows": "deployed_model",
}
"""Each check of every window, and its asset."""


@contextmanager
def instance_of(bench: Bench) -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.from_config(str(bench.home / "dagster")) as instance:
        yield instance


def materialized(bench: Bench) -> "Counter[tuple[str, str]]":
    """How often each asset of each window was materialized."""
    found: Counter[tuple[str, str]] = Counter()
    with instance_of(bench) as instance:
        for asset in ASSETS:
            key = dg.AssetKey([bench.model, asset])
            records = instance.fetch_materializations(key, limit=1000).records
            found.update((asset, str(record.partition_key)) for record in records)
    return found


def checked(bench: Bench) -> "Counter[tuple[str, str, str]]":
    """How often each check of each asset and window was answered."""
    kind = dg.DagsterEventType.ASSET_CHECK_EVALUATION
    found: Counter[tuple[str, str, str]] = Counter()
    with instance_of(bench) as instance:
        for run in instance.get_runs():
            for entry in instance.all_logs(run.run_id, of_type=kind):
                told = entry.get_dagster_event().asset_check_evaluation_data
                found[told.asset_key.path[-1], told.check_name, str(told.partition)] += 1
    return found


def metadata(bench: Bench, asset: str, window: str) -> dict[str, dg.MetadataValue]:
    """The newest materialization's metadata."""
    wanted = dg.AssetRecordsFilter(dg.AssetKey([bench.model, asset]), asset_partitions=[window])
    with instance_of(bench) as instance:
        (record,) = instance.fetch_materializations(wanted, limit=1).records
    made = record.asset_materialization
    assert made is not None
    return dict(made.metadata)


def runs(bench: Bench) -> "Counter[str]":
    """How many runs stand at each status."""
    with instance_of(bench) as instance:
        return Counter(run.status.value for run in instance.get_runs())


def last_words(bench: Bench, run: str) -> str:
    """What the failed step of a run had to say."""
    with instance_of(bench) as instance:
        failures = instance.all_logs(run, of_type=dg.DagsterEventType.STEP_FAILURE)
    return " ".join(
        str(entry.get_dagster_event().step_failure_data.user_failure_data) for entry in failures
    )
