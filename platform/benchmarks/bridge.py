"""The additional cost of a Dagster run that Airflow starts, and whether it occupies a worker slot.

    .venv/bin/python platform/benchmarks/bridge.py [--quick]

A whole Airflow (scheduler, DAG processor, triggerer, API server) and a Dagster with a small model
run on this machine, with the embedded Kafka. A DAG's task materializes one window that was read
before, so Dagster's work is short. The median of ten runs after a warm-up is judged: the time from
the task's start to its success, minus the time from the Dagster run's creation to its end. Then one
run is blocked in Dagster for half a minute. Meanwhile, after the ten seconds in which the worker
itself polls the run, the used slots of Airflow's pool are counted.
"""

import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from harness import Figure, Goal, argument_parser, log, report_results

# Airflow and Dagster are started and stopped by the test support.
sys.path.insert(0, str(Path(__file__).parents[2] / "assets_tests"))

from support.airflow.driver import Airflow, connection_uri
from support.airflow.services import RunningAirflow, running_airflow
from support.dagster.event_log import open_instance
from support.dagster.webserver import DagsterClient, running_dagster
from support.models.harness import ModelHarness, run_window
from tidemill.cycle.steps.initial import initial
from tidemill.defs.assets import pool_of
from tidemill.local import broker

GOALS = (
    Goal("overhead_seconds", at_most=2.0),
    Goal("slots_held_while_dagster_works", at_most=0),
)
RUN_COUNT, HOLD_SECONDS = 10, 30.0
DAG = """
from datetime import UTC, datetime
from airflow.sdk import DAG
from tidemill_airflow.operators.dagster import MaterializeAssetsOperator
from tidemill_airflow.schedule import PARTITION_KEY

with DAG("bridge", schedule=None, start_date=datetime(2026, 1, 1, tzinfo=UTC)):
    MaterializeAssetsOperator(
        task_id="task", assets=["{model}/kafka_batch"], partition=PARTITION_KEY
    )
"""
_RUN_TIMES = "query($id: ID!) { runOrError(runId: $id) { ... on Run { creationTime endTime } } }"


def main() -> int:
    args = argument_parser(__doc__).parse_args()
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(TemporaryDirectory(prefix="tidemill-bridge-")))
        harness = _prepare_model(
            stack.enter_context(broker.running(scratch / "kafka")), scratch / "home"
        )
        ui = stack.enter_context(running_dagster(harness.env, daemon=False))
        airflow = Airflow(scratch / "airflow", connection_uri(ui.address)).migrate()
        airflow.write(DAG.format(model=harness.model))
        live_airflow = stack.enter_context(running_airflow(airflow))
        live_airflow.wait_for_dags("bridge")
        log("Airflow and Dagster are up")
        overheads = [
            _overhead(live_airflow, ui, harness) for _ in range(2 if args.quick else RUN_COUNT + 1)
        ][1:]
        figures: dict[str, Figure] = {
            "runs": len(overheads),
            "overhead_seconds": median(overheads),
            "overhead_worst": max(overheads),
        }
        if not args.quick:
            figures["slots_held_while_dagster_works"] = _slots_while_deferred(live_airflow, harness)
    return report_results("bridge", figures, GOALS, args.quick)


def _prepare_model(servers: str, home: Path) -> ModelHarness:
    """A model with its first window completed."""
    harness = ModelHarness(servers, home, f"m{uuid.uuid4().hex[:8]}")
    harness.define()
    harness.create_topic()
    harness.produce_windows(-2, 1)
    with harness.open_model() as ctx:
        initial(ctx)
        run_window(ctx, 0)
    return harness


def _overhead(live_airflow: RunningAirflow, ui: DagsterClient, harness: ModelHarness) -> float:
    """The seconds of a task outside of its Dagster run."""
    run = live_airflow.trigger("bridge", harness.window(0).key)
    task = live_airflow.wait_for_dag_run("bridge", run)
    assert task["state"] == "success", live_airflow.log("bridge", run)
    dagster_run = ui.execute(_RUN_TIMES, id=live_airflow.xcom("bridge", run))["runOrError"]
    task_seconds = _timestamp(task["end_date"]) - _timestamp(task["start_date"])
    run_seconds = dagster_run["endTime"] - dagster_run["creationTime"]
    log(f"task {task_seconds:.2f} s, Dagster run {run_seconds:.2f} s")
    return float(task_seconds - run_seconds)


def _timestamp(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def _slots_while_deferred(live_airflow: RunningAirflow, harness: ModelHarness) -> int:
    """The most slots of Airflow's pool in use while the run of a deferred task was active."""
    slots = []
    with _pool_occupied(harness):
        run = live_airflow.trigger("bridge", harness.window(0).key)
        live_airflow.wait_for_task_state("bridge", run, "deferred")
        deadline = time.monotonic() + HOLD_SECONDS
        while time.monotonic() < deadline:
            pool: Any = live_airflow.call_api("pools/default_pool")
            slots.append(pool["running_slots"] + pool["queued_slots"])
            time.sleep(1)
    assert live_airflow.wait_for_dag_run("bridge", run)["state"] == "success"
    log(f"slots in use while a run was blocked: {sorted(set(slots))}")
    return int(max(slots))


@contextmanager
def _pool_occupied(harness: ModelHarness) -> Iterator[None]:
    """Occupy the model's pool, so that its runs wait."""
    with open_instance(harness) as instance:
        storage, pool = instance.event_log_storage, pool_of(harness.model)
        storage.initialize_concurrency_limit_to_default(pool)
        claimed = storage.claim_concurrency_slot(pool, "another-run", "step")
        assert claimed.is_claimed, claimed
        try:
            yield
        finally:
            storage.free_concurrency_slots_for_run("another-run")


if __name__ == "__main__":
    sys.exit(main())
