"""DAGs run against a real Dagster: what Airflow tells of a run is what Dagster made."""

from pathlib import Path

from airflow_driver import Bridge

PACKAGED = Path(__file__).parents[2] / "airflow_bridge" / "dags" / "flights.py"
DAGS = """
from datetime import UTC, datetime, timedelta
from tidemill_airflow.factory import Model, model_dags

model_dags(Model("{model}", cron="*/5 * * * *", start=datetime(2026, 1, 1, tzinfo=UTC), retries=0))
"""


def test_the_dags_of_a_model_materialize_its_assets_and_tell_what_came_of_it(
    bridge: Bridge,
) -> None:
    bench, airflow = bridge.harness, bridge.airflow
    airflow.write(DAGS.format(model=bench.model))
    airflow.write(PACKAGED.read_text(), "flights.py")  # every run checks that all files load
    begun = airflow.run_dag(f"{bench.model}.initial_model")
    assert begun.state == "success", begun.log
    window = bench.window(0).key
    updated = airflow.run_dag(f"{bench.model}.incremental_update", partition_key=window)
    assert updated.state == "success", updated.log

    (run,) = bridge.runs("update")
    assert (run["runId"], run["status"]) == (updated.xcom("update"), "SUCCESS")
    assert run["tags"]["dagster/partition"] == window
    assert run["tags"]["airflow/dag_id"] == f"{bench.model}.incremental_update"
    assert run["tags"]["airflow/run_id"] == updated.payload["run_id"]
    assert run["tags"]["airflow/attempt"] == "1"
    address = f"{bridge.dagster.address}/runs/{run['runId']}"
    assert updated.xcom("update", "dagster_run_url") == address
    with bench.open_model() as mill:
        head = mill.chain().head
        assert mill.repository.report(window) is not None
    told = updated.payload["events"][f"dagster://dagster_default/{bench.model}/deployed_model"]
    (made,) = told["materializations"]
    assert head is not None
    assert (made["partition"], made["digest"]) == (window, head.entry.digest)
    assert told["dagster_run_id"] == run["runId"]
