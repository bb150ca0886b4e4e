"""A whole Airflow drives a real Dagster, while either is killed: each ask is one run."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from airflow_hands import Airflow, Bridge, connection_to
from airflow_live import Live, live
from bench import Bench, named
from between import Between, between
from commands import begun, until
from dagster_ui import ROOT, answering, served
from event_log import instance_of
from tidemill.core.windows import from_ms
from tidemill.cycle.initial import initial
from tidemill.defs.assets import pool_of

pytestmark = pytest.mark.faults

DAGS = """
from datetime import UTC, datetime, timedelta
from airflow.sdk import DAG
from tidemill_airflow.operators.dagster import MaterializeAssetsOperator
from tidemill_airflow.schedule import PARTITION_KEY, windows

START = datetime(2026, 1, 1, tzinfo=UTC)

def made(name, retries=2, schedule=None, end=None, **more):
    with DAG(name, schedule=schedule, start_date=START, end_date=end, catchup=False):
        MaterializeAssetsOperator(task_id="task", assets=["{model}/kafka_batch"],
            partition=PARTITION_KEY, retries=retries, retry_delay=timedelta(seconds=1),
            follow_interval=2.0, **more)

for name in ("before", "after", "polling", "lost", "plain"):
    made(name)
made("deferred", worker_poll=0.0)
made("brief", worker_poll=0.0, timeout=12.0, retries=0)
made("timed", schedule=windows("*/5 * * * *"), end=START)  # nothing but what is asked for
"""
RELOAD = """
mutation { reloadRepositoryLocation(repositoryLocationName: "tidemill") { __typename } }
"""
KILLS = ("before", "after", "polling")


@dataclass(frozen=True)
class Both:
    """A live Airflow, a proxy, and the Dagster behind it."""

    live: Live
    proxy: Between
    bridge: Bridge
    keeps: ExitStack
    """What is begun in a test and lives on for the others."""

    @property
    def bench(self) -> Bench:
        return self.bridge.bench

    @property
    def port(self) -> int:
        """Of Dagster's webserver."""
        return int(self.bridge.dagster.address.rsplit(":", 1)[1])

    def runs(self, dag_id: str) -> list[tuple[str, str, str]]:
        """Key, ask and status of the runs a DAG asked for, the oldest first."""
        found = [run for run in self.bridge.runs("task") if run["tags"]["airflow/dag_id"] == dag_id]
        return [
            (run["tags"]["airflow/key"], run["tags"]["airflow/ask"], run["status"])
            for run in reversed(found)
        ]

    def partitions(self, dag_id: str) -> list[str]:
        """For which partition of Dagster each run of a DAG asked, the oldest first."""
        found = [run["tags"] for run in self.bridge.runs("task")]
        tags = [told for told in found if told["airflow/dag_id"] == dag_id]
        return [told["dagster/partition"] for told in reversed(tags)]


@pytest.fixture(scope="module")
def both(kafka: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Both]:
    """A model whose windows 0 and 1 the log has closed and whose window 2 is open."""
    home = tmp_path_factory.mktemp("live")
    bench = Bench(kafka, home, named("live"))
    bench.define()
    bench.create_topic()
    bench.feed(-2, 2)
    with bench.mill() as mill:
        initial(mill)
    with ExitStack() as stack:
        dagster = stack.enter_context(served(bench.environment, daemon=False))
        proxy = stack.enter_context(between(dagster.address))
        airflow = Airflow(home / "airflow", connection_to(proxy.address)).migrated()
        airflow.write(DAGS.format(model=bench.model))
        at = stack.enter_context(live(airflow))
        at.knows(*KILLS, "lost", "plain", "deferred", "brief", "timed")
        yield Both(at, proxy, Bridge(airflow, dagster, bench), stack)


def test_a_task_that_is_killed_or_loses_the_reply_asks_for_one_run(both: Both) -> None:
    """FAULTS 33."""
    names = (*KILLS, "lost")
    both.proxy.plans = {name: name for name in names}
    window = both.bench.window(0).key
    begun = {name: both.live.trigger(name, window) for name in names}
    for name, run in begun.items():
        task = both.live.ended(name, run)
        assert task["state"] == "success", both.live.log(name, run)
        assert task["try_number"] == (1 if name == "lost" else 2)
        ((_, ask, status),) = both.runs(name)
        assert (ask, status) == ("1", "SUCCESS")
        (asked,) = [r for r in both.bridge.runs("task") if r["tags"]["airflow/dag_id"] == name]
        assert both.live.xcom(name, run) == asked["runId"]
        assert both.live.link(name, run) == f"{both.proxy.address}/runs/{asked['runId']}"
    assert sorted(both.proxy.done) == sorted((name, name) for name in names)


def test_a_clear_after_the_success_asks_anew(both: Both) -> None:
    run = both.live.trigger("plain", both.bench.window(0).key)
    assert both.live.ended("plain", run)["state"] == "success"
    both.live.clear("plain", run)
    both.live.reaches("plain", run, "running", "queued", "scheduled", "deferred")
    assert both.live.ended("plain", run)["state"] == "success"
    (first, *_), (second, *_) = both.runs("plain")
    assert first != second
    assert {ask for _, ask, _ in both.runs("plain")} == {"1"}


def test_a_backfill_and_a_manual_run_hit_the_partitions_that_are_meant(both: Both) -> None:
    first, last = both.bench.window(0), both.bench.window(1)
    moments = [from_ms(window.start).isoformat() for window in (first, last)]
    both.live.backfill("timed", *moments)
    assert sorted(both.partitions("timed")) == [first.key, last.key]
    run = both.live.trigger_for("timed", last.key)
    assert both.live.ended("timed", run)["state"] == "success"
    assert sorted(both.partitions("timed")) == [first.key, last.key, last.key]


def test_an_open_window_is_followed_until_the_log_has_closed_it(both: Both) -> None:
    key = both.bench.window(2).key
    run = both.live.trigger("deferred", key)
    both.live.reaches("deferred", run, "deferred")
    until(lambda: "2" in {ask for _, ask, _ in both.runs("deferred")})
    assert both.live.task("deferred", run)["state"] not in ("failed", "success")
    both.bench.feed(3, 3)
    task = both.live.ended("deferred", run)
    assert (task["state"], task["try_number"]) == ("success", 1)
    asked = both.runs("deferred")
    assert len({key for key, _, _ in asked}) == 1
    assert [ask for _, ask, _ in asked] == [str(n + 1) for n in range(len(asked))]
    assert [status for *_, status in asked] == ["FAILURE"] * (len(asked) - 1) + ["SUCCESS"]


@contextmanager
def held_up(both: Both) -> Iterator[None]:
    """Runs of the model wait in its pool: they have started and do not end, also not if told to."""
    with instance_of(both.bench) as instance:
        storage, pool = instance.event_log_storage, pool_of(both.bench.model)
        storage.initialize_concurrency_limit_to_default(pool)
        until(lambda: storage.claim_concurrency_slot(pool, "somebody-else", "step").is_claimed)
        try:
            yield
        finally:
            storage.free_concurrency_slots_for_run("somebody-else")


def found(*words: str, home: Path) -> set[int]:
    """The processes of this Airflow whose command line has all these words, without children."""
    pids = {}
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            line = " ".join(process.cmdline())
            if all(w in line for w in words) and str(home) == process.environ().get("AIRFLOW_HOME"):
                pids[process.pid] = process.ppid()
    return {pid for pid, parent in pids.items() if parent not in pids}


def test_while_a_task_is_deferred_its_link_shows_and_marking_it_failed_ends_the_run(
    both: Both,
) -> None:
    before = len(both.runs("deferred"))
    with held_up(both):
        run = both.live.trigger("deferred", both.bench.window(0).key)
        both.live.reaches("deferred", run, "deferred")
        until(lambda: len(both.runs("deferred")) > before)
        until(lambda: both.runs("deferred")[before][2] == "STARTED")
        asked = both.bridge.runs("task")[0]["runId"]
        assert both.live.link("deferred", run) == f"{both.proxy.address}/runs/{asked}"
        # Before the triggerer has taken it over, nobody there hears of a task that is marked.
        until(lambda: "(ID" in both.live.log("deferred", run))
        both.live.set_task("deferred", run, "failed")
        until(lambda: both.runs("deferred")[before][2] == "CANCELING", 60)
    until(lambda: both.runs("deferred")[before][2] == "CANCELED", 60)
    assert both.live.task("deferred", run)["state"] == "failed"


def test_the_timeout_ends_a_deferred_run(both: Both) -> None:
    with held_up(both):
        run = both.live.trigger("brief", both.bench.window(0).key)
        assert both.live.ended("brief", run)["state"] == "failed"
    until(lambda: both.runs("brief")[0][2] == "CANCELED", 60)
    assert "has not ended after 12 s" in both.live.log("brief", run)


def test_a_scheduler_that_is_killed_and_begun_again_goes_on_with_the_run(both: Both) -> None:
    before = len(both.runs("deferred"))
    with held_up(both):
        run = both.live.trigger("deferred", both.bench.window(0).key)
        both.live.reaches("deferred", run, "deferred")
        (pid,) = found("airflow", "scheduler", home=both.live.airflow.home)
        scheduler = psutil.Process(pid)
        for member in [scheduler, *scheduler.children(recursive=True)]:
            member.kill()  # its idle workers too, which nobody else would end
        words = ("airflow", "scheduler", "--skip-serve-logs")
        both.keeps.enter_context(begun(both.live.environment, *words, name="another"))
    task = both.live.ended("deferred", run)
    assert (task["state"], task["try_number"]) == ("success", 1)
    ((_, ask, status),) = both.runs("deferred")[before:]
    assert (ask, status) == ("1", "SUCCESS")


def killed(*words: str, parent: psutil.Process) -> None:
    """Kill -9 the processes below this one whose command line has all these words."""
    doomed = []
    for child in parent.children(recursive=True):
        with suppress(psutil.Error):  # what was killed before may still be on its way out
            if all(word in " ".join(child.cmdline()) for word in words):
                doomed.append(child)
    assert doomed
    for child in doomed:
        child.kill()


def webserver_of(both: Both) -> psutil.Process:
    (pid,) = {
        held.pid
        for held in psutil.net_connections("tcp")
        if held.laddr and held.laddr.port == both.port and held.status == psutil.CONN_LISTEN
    }
    return psutil.Process(pid)


def begun_while_held_up(both: Both) -> str:
    """A run of the DAG `plain` whose Dagster run has started; its id."""
    before = len(both.runs("plain"))
    run = both.live.trigger("plain", both.bench.window(1).key)
    until(lambda: len(both.runs("plain")) > before, 60)
    until(lambda: both.runs("plain")[before][2] == "STARTED", 60)
    return run


def test_a_run_worker_that_is_killed_is_made_up_for_by_the_next_try(both: Both) -> None:
    """FAULTS 34."""
    before = len(both.runs("plain"))
    with held_up(both):
        run = begun_while_held_up(both)
        killed("spawn_main", parent=webserver_of(both))
        until(lambda: both.runs("plain")[before][2] == "FAILURE", 120)
        with instance_of(both.bench) as instance:  # as Dagster's daemon would, which is not here
            for asked in both.bridge.runs("task"):
                if asked["status"] == "FAILURE":
                    instance.event_log_storage.free_concurrency_slots_for_run(asked["runId"])
    task = both.live.ended("plain", run)
    assert (task["state"], task["try_number"]) == ("success", 2)
    (first, *_, status), (second, *_, ended) = (r for r in both.runs("plain")[before:])
    assert (first, status, ended) == (second, "FAILURE", "SUCCESS")


def test_a_task_waits_for_a_code_server_that_is_killed(both: Both) -> None:
    """FAULTS 34. The webserver begins no other by itself; a person who reloads the code does."""
    before = len(both.runs("plain"))
    killed("api", "grpc", parent=webserver_of(both))
    run = both.live.trigger("plain", both.bench.window(1).key)
    until(lambda: "code server is down" in both.live.log("plain", run), 120)
    assert both.runs("plain")[before:] == []
    told = both.bridge.dagster.ask(RELOAD)["reloadRepositoryLocation"]
    assert told["__typename"] == "WorkspaceLocationEntry", told
    task = both.live.ended("plain", run)
    assert (task["state"], task["try_number"]) == ("success", 1)
    ((_, ask, status),) = both.runs("plain")[before:]
    assert (ask, status) == ("1", "SUCCESS")


def test_a_task_waits_for_a_webserver_that_is_killed(both: Both) -> None:
    """FAULTS 34."""
    before = len(both.runs("plain"))
    environment = both.bench.environment | {"DAGSTER_HOME": str(both.bench.home / "dagster")}
    words = ("-w", str(ROOT / "workspace.yaml"), "-h", "127.0.0.1", "-p", str(both.port))
    with held_up(both):
        run = begun_while_held_up(both)
        webserver_of(both).kill()
        until(lambda: "asked again" in both.live.log("plain", run), 60)
        both.keeps.enter_context(begun(environment, "dagster-webserver", *words, name="another"))
        answering(environment, both.port, "another")
    task = both.live.ended("plain", run)
    assert (task["state"], task["try_number"]) == ("success", 1)
    ((_, ask, status),) = both.runs("plain")[before:]
    assert (ask, status) == ("1", "SUCCESS")
