"""DAGs run against a real Dagster: Airflow's record of a run agrees with Dagster's."""

from pathlib import Path

from support.airflow.driver import Bridge

PACKAGED = Path(__file__).parents[2] / "airflow_bridge" / "dags" / "flights.py"
DAGS = """
from datetime import UTC, datetime, timedelta
from tidemill_airflow.factory import ModelConfig, model_dags

START = datetime(2026, 1, 1, tzinfo=UTC)
model_dags(ModelConfig("{model}", cron="*/5 * * * *", start=START, retries=0))
"""


def test_the_dags_of_a_model_materialize_its_assets_and_report_the_results(
    bridge: Bridge,
) -> None:
    harness, airflow = bridge.harness, bridge.airflow
    airflow.write(DAGS.format(model=harness.model))
    airflow.write(PACKAGED.read_text(), "flights.py")  # every run fails if a file does not load
    created = airflow.run_dag(f"{harness.model}.initial_model")
    assert created.state == "success", created.log
    window = harness.window(0).key
    updated = airflow.run_dag(f"{harness.model}.incremental_update", partition_key=window)
    assert updated.state == "success", updated.log

    (run,) = bridge.runs("update")
    assert (run["runId"], run["status"]) == (updated.xcom("update"), "SUCCESS")
    assert run["tags"]["dagster/partition"] == window
    assert run["tags"]["airflow/dag_id"] == f"{harness.model}.incremental_update"
    assert run["tags"]["airflow/run_id"] == updated.payload["run_id"]
    assert run["tags"]["airflow/attempt"] == "1"
    run_url = f"{bridge.dagster.address}/runs/{run['runId']}"
    assert updated.xcom("update", "dagster_run_url") == run_url
    with harness.open_model() as ctx:
        head = ctx.chain().head
        assert ctx.repository.report(window) is not None
    extra = updated.payload["events"][f"dagster://dagster_default/{harness.model}/deployed_model"]
    (materialization,) = extra["materializations"]
    assert head is not None
    assert materialization["partition"] == window
    assert materialization["digest"] == head.entry.digest
    assert extra["dagster_run_id"] == run["runId"]
