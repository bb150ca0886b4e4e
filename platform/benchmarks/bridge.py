"""What a Dagster run costs more when Airflow asks for it, and whether a worker waits meanwhile.

    .venv/bin/python platform/benchmarks/bridge.py [--quick]

A whole Airflow (scheduler, DAG processor, triggerer, API server) and a Dagster with a small model
over the embedded Kafka, all on this machine. A DAG's task materializes one window that was read
before, so that Dagster's work is short. Judged is the median of ten runs after one that warms up:
the task's start to its success, less the Dagster run's creation to its end. Then one run is held up
in Dagster for half a minute, and Airflow is asked meanwhile how many slots of its pool are in use,
once the ten seconds are over in which a worker itself looks at the run.
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

from harness import Figure, Goal, arguments, finish, say

# Whole Airflows and Dagsters are begun and ended by the hands of the tests.
sys.path.insert(0, str(Path(__file__).parents[2] / "assets_tests" / "support"))

from airflow_hands import Airflow, connection_to
from airflow_live import Live, live
from bench import Bench, turn
from dagster_ui import Ui, served
from event_log import instance_of
from tidemill.adapters import broker
from tidemill.cycle.initial import initial
from tidemill.defs.assets import pool_of

GOALS = (
    Goal("overhead_seconds", at_most=2.0),
    Goal("slots_held_while_dagster_works", at_most=0),
)
RUNS, HELD = 10, 30.0
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
_TIMES = "query($id: ID!) { runOrError(runId: $id) { ... on Run { creationTime endTime } } }"


def main() -> int:
    told = arguments(__doc__).parse_args()
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(TemporaryDirectory(prefix="tidemill-bridge-")))
        bench = _bench(stack.enter_context(broker.running(scratch / "kafka")), scratch / "home")
        ui = stack.enter_context(served(bench.environment, daemon=False))
        airflow = Airflow(scratch / "airflow", connection_to(ui.address)).migrated()
        airflow.write(DAG.format(model=bench.model))
        at = stack.enter_context(live(airflow))
        at.knows("bridge")
        say("Airflow and Dagster are up")
        each = [_overhead(at, ui, bench) for _ in range(2 if told.quick else RUNS + 1)][1:]
        figures: dict[str, Figure] = {
            "runs": len(each),
            "overhead_seconds": median(each),
            "overhead_worst": max(each),
        }
        if not told.quick:
            figures["slots_held_while_dagster_works"] = _held(at, bench)
    return finish("bridge", figures, GOALS, told.quick)


def _bench(servers: str, home: Path) -> Bench:
    """A model with its first window done."""
    bench = Bench(servers, home, f"m{uuid.uuid4().hex[:8]}")
    bench.define()
    bench.create_topic()
    bench.feed(-2, 1)
    with bench.mill() as mill:
        initial(mill)
        turn(mill, 0)
    return bench


def _overhead(at: Live, ui: Ui, bench: Bench) -> float:
    """Seconds of a task that Dagster's run is not to blame for."""
    run = at.trigger("bridge", bench.window(0).key)
    task = at.ended("bridge", run)
    assert task["state"] == "success", at.log("bridge", run)
    dagster = ui.ask(_TIMES, id=at.xcom("bridge", run))["runOrError"]
    whole = _moment(task["end_date"]) - _moment(task["start_date"])
    inside = dagster["endTime"] - dagster["creationTime"]
    say(f"task {whole:.2f} s, Dagster's run {inside:.2f} s")
    return float(whole - inside)


def _moment(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def _held(at: Live, bench: Bench) -> int:
    """The most slots of Airflow's pool that were in use while a deferred task's run worked."""
    seen = []
    with _held_up(bench):
        run = at.trigger("bridge", bench.window(0).key)
        at.reaches("bridge", run, "deferred")
        until = time.monotonic() + HELD
        while time.monotonic() < until:
            pool: Any = at.ask("pools/default_pool")
            seen.append(pool["running_slots"] + pool["queued_slots"])
            time.sleep(1)
    assert at.ended("bridge", run)["state"] == "success"
    say(f"slots in use while a run was held up: {sorted(set(seen))}")
    return int(max(seen))


@contextmanager
def _held_up(bench: Bench) -> Iterator[None]:
    """Runs of the model wait in their pool."""
    with instance_of(bench) as instance:
        storage, pool = instance.event_log_storage, pool_of(bench.model)
        storage.initialize_concurrency_limit_to_default(pool)
        claimed = storage.claim_concurrency_slot(pool, "somebody-else", "step")
        assert claimed.is_claimed, claimed
        try:
            yield
        finally:
            storage.free_concurrency_slots_for_run("somebody-else")


if __name__ == "__main__":
    sys.exit(main())
