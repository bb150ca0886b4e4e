"""Dagster's runs whose processes ended with the platform and were not reported as failed."""

import json
from collections.abc import Mapping

from tidemill import bootstrap
from tidemill.services.dagster_home import ensure_dagster_home
from tidemill.settings import Settings

_MESSAGE = "The platform was stopped during this run; run it again."


def fail_orphaned_runs(settings: Settings, grpc_address: Mapping[str, str | int]) -> int:
    """Mark the unfinished runs that a code server had started as failed; returns their number.

    `grpc_address` is its `socket`, or its `host` and `port`; it and all its runs must have ended. A
    run left as STARTED would occupy its model's pool permanently, and Airflow would wait for it.
    """
    if not (settings.dagster_home / "dagster.yaml").exists():
        return 0
    import dagster as dg

    from tidemill.defs.dagster_compat import GRPC_INFO_TAG
    from tidemill.defs.in_process_run import translate_instance_errors

    failed_count = 0
    finished = (
        dg.DagsterRunStatus.SUCCESS,
        dg.DagsterRunStatus.FAILURE,
        dg.DagsterRunStatus.CANCELED,
    )
    unfinished = [status for status in dg.DagsterRunStatus if status not in finished]
    home = str(ensure_dagster_home(settings))
    with (
        bootstrap.local_databases(settings),
        translate_instance_errors(),
        dg.DagsterInstance.from_config(home) as instance,
    ):
        for run in instance.get_runs(dg.RunsFilter(statuses=unfinished)):
            if grpc_address.items() <= json.loads(run.tags.get(GRPC_INFO_TAG, "{}")).items():
                instance.report_run_failed(run, message=_MESSAGE)
                instance.event_log_storage.free_concurrency_slots_for_run(run.run_id)
                failed_count += 1
    return failed_count
