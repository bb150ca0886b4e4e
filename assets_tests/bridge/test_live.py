"""A whole Airflow drives a real Dagster while either is killed: one run per attempt."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from bridge.graphql_fault_proxy import GraphqlFaultProxy, graphql_proxy
from support.airflow.driver import Airflow, Bridge, connection_uri
from support.airflow.services import RunningAirflow, running_airflow
from support.dagster.event_log import open_instance
from support.dagster.webserver import ROOT, running_dagster, wait_for_webserver
from support.models.harness import ModelHarness, model_name_for
from support.processes.commands import background, wait_until
from tidemill.core.windows import from_ms
from tidemill.cycle.steps.initial import initial
from tidemill.defs.assets import pool_of

pytestmark = pytest.mark.faults

DAGS = """
from datetime import UTC, datetime, timedelta
from airflow.sdk import DAG
from tidemill_airflow.operators.dagster import MaterializeAssetsOperator
from tidemill_airflow.schedule import PARTITION_KEY, partition_timetable

START = datetime(2026, 1, 1, tzinfo=UTC)

def make_dag(name, retries=2, schedule=None, end=None, **kwargs):
    with DAG(name, schedule=schedule, start_date=START, end_date=end, catchup=False):
        MaterializeAssetsOperator(task_id="task", assets=["{model}/kafka_batch"],
            partition=PARTITION_KEY, retries=retries, retry_delay=timedelta(seconds=1),
            retry_interval=2.0, **kwargs)

for name in ("before", "after", "polling", "lost", "plain"):
    make_dag(name)
make_dag("deferred", worker_poll=0.0)
make_dag("brief", worker_poll=0.0, timeout=12.0, retries=0)
make_dag("timed", schedule=partition_timetable("*/5 * * * *"), end=START)  # no scheduled runs
"""
RELOAD = """
mutation { reloadRepositoryLocation(repositoryLocationName: "tidemill") { __typename } }
"""
KILLS = ("before", "after", "polling")


@dataclass(frozen=True)
class LiveBridge:
    """A live Airflow, a proxy, and the Dagster behind it."""

    airflow: RunningAirflow
    proxy: GraphqlFaultProxy
    bridge: Bridge
    exit_stack: ExitStack
    """Processes that one test starts and later tests use."""

    @property
    def harness(self) -> ModelHarness:
        return self.bridge.harness

    @property
    def port(self) -> int:
        """The port of Dagster's webserver."""
        return int(self.bridge.dagster.address.rsplit(":", 1)[1])

    def runs(self, dag_id: str) -> list[tuple[str, str, str]]:
        """Key, number and status of the runs that a DAG has launched, the oldest first."""
        task_runs = [
            run for run in self.bridge.runs("task") if run["tags"]["airflow/dag_id"] == dag_id
        ]
        return [
            (run["tags"]["airflow/idempotency_key"], run["tags"]["airflow/attempt"], run["status"])
            for run in reversed(task_runs)
        ]

    def partitions(self, dag_id: str) -> list[str]:
        """The partition of each run that a DAG has launched, the oldest first."""
        run_tags = [run["tags"] for run in self.bridge.runs("task")]
        tags = [tag_set for tag_set in run_tags if tag_set["airflow/dag_id"] == dag_id]
        return [tag_set["dagster/partition"] for tag_set in reversed(tags)]


@pytest.fixture(scope="module")
def live_bridge(kafka: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveBridge]:
    """A model whose windows 0 and 1 the log has closed and whose window 2 is open."""
    home = tmp_path_factory.mktemp("live")
    harness = ModelHarness(kafka, home, model_name_for("live"))
    harness.define()
    harness.create_topic()
    harness.produce_windows(-2, 2)
    with harness.open_model() as ctx:
        initial(ctx)
    with ExitStack() as stack:
        dagster = stack.enter_context(running_dagster(harness.env, daemon=False))
        proxy = stack.enter_context(graphql_proxy(dagster.address))
        airflow = Airflow(home / "airflow", connection_uri(proxy.address)).migrate()
        airflow.write(DAGS.format(model=harness.model))
        running = stack.enter_context(running_airflow(airflow))
        running.wait_for_dags(*KILLS, "lost", "plain", "deferred", "brief", "timed")
        yield LiveBridge(running, proxy, Bridge(airflow, dagster, harness), stack)


def test_a_task_that_is_killed_or_loses_the_response_launches_one_run(
    live_bridge: LiveBridge,
) -> None:
    """Fault 33 (platform/docs/design/fault-model.md)."""
    names = (*KILLS, "lost")
    live_bridge.proxy.faults = {name: name for name in names}
    window = live_bridge.harness.window(0).key
    dag_runs = {name: live_bridge.airflow.trigger(name, window) for name in names}
    for name, run in dag_runs.items():
        task = live_bridge.airflow.wait_for_dag_run(name, run)
        assert task["state"] == "success", live_bridge.airflow.log(name, run)
        assert task["try_number"] == (1 if name == "lost" else 2)
        ((_, number, status),) = live_bridge.runs(name)
        assert (number, status) == ("1", "SUCCESS")
        (dagster_run,) = [
            r for r in live_bridge.bridge.runs("task") if r["tags"]["airflow/dag_id"] == name
        ]
        assert live_bridge.airflow.xcom(name, run) == dagster_run["runId"]
        assert (
            live_bridge.airflow.link(name, run)
            == f"{live_bridge.proxy.address}/runs/{dagster_run['runId']}"
        )
    assert sorted(live_bridge.proxy.injected) == sorted((name, name) for name in names)


def test_a_clear_after_a_success_launches_another_run(live_bridge: LiveBridge) -> None:
    run = live_bridge.airflow.trigger("plain", live_bridge.harness.window(0).key)
    assert live_bridge.airflow.wait_for_dag_run("plain", run)["state"] == "success"
    live_bridge.airflow.clear("plain", run)
    live_bridge.airflow.wait_for_task_state(
        "plain", run, "running", "queued", "scheduled", "deferred"
    )
    assert live_bridge.airflow.wait_for_dag_run("plain", run)["state"] == "success"
    (first, *_), (second, *_) = live_bridge.runs("plain")
    assert first != second
    assert {number for _, number, _ in live_bridge.runs("plain")} == {"1"}


def test_a_backfill_and_a_manual_run_get_the_intended_partitions(
    live_bridge: LiveBridge,
) -> None:
    first, last = live_bridge.harness.window(0), live_bridge.harness.window(1)
    bounds = [from_ms(window.start).isoformat() for window in (first, last)]
    live_bridge.airflow.backfill("timed", *bounds)
    assert sorted(live_bridge.partitions("timed")) == [first.key, last.key]
    run = live_bridge.airflow.trigger_for_partition("timed", last.key)
    assert live_bridge.airflow.wait_for_dag_run("timed", run)["state"] == "success"
    assert sorted(live_bridge.partitions("timed")) == [first.key, last.key, last.key]


def test_an_open_window_is_retried_until_the_log_has_closed_it(live_bridge: LiveBridge) -> None:
    key = live_bridge.harness.window(2).key
    run = live_bridge.airflow.trigger("deferred", key)
    live_bridge.airflow.wait_for_task_state("deferred", run, "deferred")
    wait_until(lambda: "2" in {number for _, number, _ in live_bridge.runs("deferred")})
    assert live_bridge.airflow.task("deferred", run)["state"] not in ("failed", "success")
    live_bridge.harness.produce_windows(3, 3)
    task = live_bridge.airflow.wait_for_dag_run("deferred", run)
    assert (task["state"], task["try_number"]) == ("success", 1)
    runs = live_bridge.runs("deferred")
    assert len({key for key, _, _ in runs}) == 1
    assert [number for _, number, _ in runs] == [str(n + 1) for n in range(len(runs))]
    assert [status for *_, status in runs] == ["FAILURE"] * (len(runs) - 1) + ["SUCCESS"]


@contextmanager
def runs_blocked(live_bridge: LiveBridge) -> Iterator[None]:
    """Runs of the model wait in its pool: they start but do not end, not even when terminated."""
    with open_instance(live_bridge.harness) as instance:
        storage, pool = instance.event_log_storage, pool_of(live_bridge.harness.model)
        storage.initialize_concurrency_limit_to_default(pool)
        wait_until(lambda: storage.claim_concurrency_slot(pool, "another-run", "step").is_claimed)
        try:
            yield
        finally:
            storage.free_concurrency_slots_for_run("another-run")


def pids_matching(*patterns: str, home: Path) -> set[int]:
    """The processes of this Airflow whose command line contains all patterns, without children."""
    pids = {}
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            line = " ".join(process.cmdline())
            if all(w in line for w in patterns) and str(home) == process.environ().get(
                "AIRFLOW_HOME"
            ):
                pids[process.pid] = process.ppid()
    return {pid for pid, parent in pids.items() if parent not in pids}


def test_marking_a_deferred_task_failed_terminates_the_run_that_its_link_shows(
    live_bridge: LiveBridge,
) -> None:
    before = len(live_bridge.runs("deferred"))
    with runs_blocked(live_bridge):
        run = live_bridge.airflow.trigger("deferred", live_bridge.harness.window(0).key)
        live_bridge.airflow.wait_for_task_state("deferred", run, "deferred")
        wait_until(lambda: len(live_bridge.runs("deferred")) > before)
        wait_until(lambda: live_bridge.runs("deferred")[before][2] == "STARTED")
        run_id = live_bridge.bridge.runs("task")[0]["runId"]
        assert (
            live_bridge.airflow.link("deferred", run)
            == f"{live_bridge.proxy.address}/runs/{run_id}"
        )
        # The triggerer only reacts to the mark once it has taken over the task.
        wait_until(lambda: "(ID" in live_bridge.airflow.log("deferred", run))
        live_bridge.airflow.mark_task("deferred", run, "failed")
        wait_until(lambda: live_bridge.runs("deferred")[before][2] == "CANCELING", 60)
    wait_until(lambda: live_bridge.runs("deferred")[before][2] == "CANCELED", 60)
    assert live_bridge.airflow.task("deferred", run)["state"] == "failed"


def test_the_timeout_terminates_a_deferred_run(live_bridge: LiveBridge) -> None:
    with runs_blocked(live_bridge):
        run = live_bridge.airflow.trigger("brief", live_bridge.harness.window(0).key)
        assert live_bridge.airflow.wait_for_dag_run("brief", run)["state"] == "failed"
    wait_until(lambda: live_bridge.runs("brief")[0][2] == "CANCELED", 60)
    assert "did not finish within 12 s" in live_bridge.airflow.log("brief", run)


def test_a_task_resumes_its_run_after_the_scheduler_is_killed_and_restarted(
    live_bridge: LiveBridge,
) -> None:
    before = len(live_bridge.runs("deferred"))
    with runs_blocked(live_bridge):
        run = live_bridge.airflow.trigger("deferred", live_bridge.harness.window(0).key)
        live_bridge.airflow.wait_for_task_state("deferred", run, "deferred")
        (pid,) = pids_matching("airflow", "scheduler", home=live_bridge.airflow.airflow.home)
        scheduler = psutil.Process(pid)
        for member in [scheduler, *scheduler.children(recursive=True)]:
            member.kill()  # its idle workers too, which would live on
        command = ("airflow", "scheduler", "--skip-serve-logs")
        live_bridge.exit_stack.enter_context(
            background(live_bridge.airflow.env, *command, name="another")
        )
    task = live_bridge.airflow.wait_for_dag_run("deferred", run)
    assert (task["state"], task["try_number"]) == ("success", 1)
    ((_, number, status),) = live_bridge.runs("deferred")[before:]
    assert (number, status) == ("1", "SUCCESS")


def kill_children(*patterns: str, parent: psutil.Process) -> None:
    """Kill -9 the descendants of this process whose command line contains all patterns."""
    doomed = []
    for child in parent.children(recursive=True):
        with suppress(psutil.Error):  # one killed before may still be exiting
            if all(word in " ".join(child.cmdline()) for word in patterns):
                doomed.append(child)
    assert doomed
    for child in doomed:
        child.kill()


def webserver_process(live_bridge: LiveBridge) -> psutil.Process:
    (pid,) = {
        connection.pid
        for connection in psutil.net_connections("tcp")
        if connection.laddr
        and connection.laddr.port == live_bridge.port
        and connection.status == psutil.CONN_LISTEN
    }
    return psutil.Process(pid)


def start_blocked_run(live_bridge: LiveBridge) -> str:
    """Start a run of the DAG `plain` and wait until its Dagster run has started; its id."""
    before = len(live_bridge.runs("plain"))
    run = live_bridge.airflow.trigger("plain", live_bridge.harness.window(1).key)
    wait_until(lambda: len(live_bridge.runs("plain")) > before, 60)
    wait_until(lambda: live_bridge.runs("plain")[before][2] == "STARTED", 60)
    return run


def test_the_next_try_replaces_the_run_of_a_killed_run_worker(
    live_bridge: LiveBridge,
) -> None:
    """Fault 34 (platform/docs/design/fault-model.md)."""
    before = len(live_bridge.runs("plain"))
    with runs_blocked(live_bridge):
        run = start_blocked_run(live_bridge)
        kill_children("spawn_main", parent=webserver_process(live_bridge))
        wait_until(lambda: live_bridge.runs("plain")[before][2] == "FAILURE", 120)
        with open_instance(
            live_bridge.harness
        ) as instance:  # as Dagster's daemon would, which does not run here
            for failed in live_bridge.bridge.runs("task"):
                if failed["status"] == "FAILURE":
                    instance.event_log_storage.free_concurrency_slots_for_run(failed["runId"])
    task = live_bridge.airflow.wait_for_dag_run("plain", run)
    assert (task["state"], task["try_number"]) == ("success", 2)
    (first, *_, status), (second, *_, next_status) = (r for r in live_bridge.runs("plain")[before:])
    assert (first, status, next_status) == (second, "FAILURE", "SUCCESS")


def test_a_task_waits_for_a_code_server_that_is_killed(live_bridge: LiveBridge) -> None:
    """Fault 34. The webserver does not restart the code server; reloading the code does."""
    before = len(live_bridge.runs("plain"))
    kill_children("api", "grpc", parent=webserver_process(live_bridge))
    run = live_bridge.airflow.trigger("plain", live_bridge.harness.window(1).key)
    wait_until(lambda: "code server is down" in live_bridge.airflow.log("plain", run), 120)
    assert live_bridge.runs("plain")[before:] == []
    response = live_bridge.bridge.dagster.execute(RELOAD)["reloadRepositoryLocation"]
    assert response["__typename"] == "WorkspaceLocationEntry", response
    task = live_bridge.airflow.wait_for_dag_run("plain", run)
    assert (task["state"], task["try_number"]) == ("success", 1)
    ((_, number, status),) = live_bridge.runs("plain")[before:]
    assert (number, status) == ("1", "SUCCESS")


def test_a_task_waits_for_a_webserver_that_is_killed(live_bridge: LiveBridge) -> None:
    """Fault 34 (platform/docs/design/fault-model.md)."""
    before = len(live_bridge.runs("plain"))
    env = live_bridge.harness.env | {"DAGSTER_HOME": str(live_bridge.harness.home / "dagster")}
    options = ("-w", str(ROOT / "workspace.yaml"), "-h", "127.0.0.1", "-p", str(live_bridge.port))
    with runs_blocked(live_bridge):
        run = start_blocked_run(live_bridge)
        webserver_process(live_bridge).kill()
        wait_until(lambda: "is retried" in live_bridge.airflow.log("plain", run), 60)
        live_bridge.exit_stack.enter_context(
            background(env, "dagster-webserver", *options, name="another")
        )
        wait_for_webserver(env, live_bridge.port, "another")
    task = live_bridge.airflow.wait_for_dag_run("plain", run)
    assert (task["state"], task["try_number"]) == ("success", 1)
    ((_, number, status),) = live_bridge.runs("plain")[before:]
    assert (number, status) == ("1", "SUCCESS")
