"""Dagster's runs whose processes ended with the platform: nobody else would say so."""

from tidemill import bootstrap
from tidemill.cli.backfill import dagster_home
from tidemill.cli.up.services import Places
from tidemill.settings import Settings


def bury(settings: Settings) -> int:
    """Mark the runs that the code server of `up` had begun, and that are under way, as failed.

    That server and all that it began must have ended. A run left as STARTED would keep its place in
    its model's pool for ever, and Airflow would wait for its end. Returns how many there were.
    """
    if not (settings.dagster_home / "dagster.yaml").exists():
        return 0
    import dagster as dg
    from dagster._core.storage.tags import GRPC_INFO_TAG

    from tidemill.defs.launch import named

    socket, buried = str(Places(settings).code), 0
    over = (dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED)
    under_way = [status for status in dg.DagsterRunStatus if status not in over]
    home = str(dagster_home(settings))
    with bootstrap.databases(settings), named(), dg.DagsterInstance.from_config(home) as instance:
        for run in instance.get_runs(dg.RunsFilter(statuses=under_way)):
            if socket in run.tags.get(GRPC_INFO_TAG, ""):
                instance.report_run_failed(run, message="The platform ended; run it again.")
                instance.event_log_storage.free_concurrency_slots_for_run(run.run_id)
                buried += 1
    return buried
