"""PostgreSQL of Dagster and MLflow killed, disconnected at a commit or full: one result.

Neither database is a source of truth; only the store and the ledger are.
"""

from collections.abc import Callable, Iterator
from functools import partial
from itertools import product

import pytest
from mlflow.tracking import MlflowClient

from faults.small_disk import SmallDisk
from support.dagster.event_log import ASSETS, materialization_counts
from support.models import oracle
from support.models.harness import ModelHarness, run_window, run_windows
from support.models.store_snapshot import take_snapshot
from support.servers.http import free_port
from support.servers.postgres import PostgresServer, running_postgres, world_accessible_folder
from support.servers.tcp_fault_proxy import running_tcp_proxy
from tidemill import failpoints
from tidemill.adapters.mlflow.tracker import MlflowTracker
from tidemill.cli.backfill import run_backfill
from tidemill.core.errors import InstanceUnavailable, TrackerUnavailable
from tidemill.cycle.steps.initial import initial
from tidemill.cycle.tracking import Recorder, find_drift

pytestmark = [
    pytest.mark.faults,
    pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecatedSince20"),  # Dagster's
]

COMMIT, EVENT = b"COMMIT", b"INSERT INTO event_logs"
"""Requests that commit in PostgreSQL: an explicit COMMIT, and a statement in autocommit mode."""


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with world_accessible_folder() as folder, running_postgres(folder / "postgres") as running:
        yield running


@pytest.fixture
def use_database(harness: ModelHarness, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Sets this process's environment to the harness, and to the Dagster database passed."""

    def set_url(url: str) -> None:
        monkeypatch.setenv("DAGSTER_POSTGRES_URL", url)

    for name, value in harness.env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("DAGSTER_HOME", str(harness.settings.dagster_home))
    harness.define(gate={"policy": "always"})
    return set_url


def backfill(harness: ModelHarness, number: int) -> InstanceUnavailable | None:
    """Run this window in Dagster; the error if its database failed."""
    key = harness.window(number).key
    try:
        run_backfill(harness.settings, harness.load_spec(), key, key, quiet=True)
    except InstanceUnavailable as error:
        return error
    return None


def inject_once(failpoint: str, inject_fault: Callable[[], object]) -> None:
    """Inject a fault when this failpoint is first reached."""
    hits: list[str] = []

    def on_reached(reached: str) -> None:
        if reached == failpoint and not hits:
            hits.append(reached)
            inject_fault()

    failpoints.on_reached(on_reached)


def make_tracker(uri: str, harness: ModelHarness) -> MlflowTracker:
    return MlflowTracker(uri, (harness.home / "artifacts").as_uri(), "", 5)


def run_undisturbed(harness: ModelHarness, last: int) -> ModelHarness:
    twin = harness.twin("undisturbed")
    with twin.open_model() as ctx:
        run_windows(ctx, 0, last)
    return twin


def test_dagsters_database_killed_or_disconnected_at_a_commit_leaves_one_result(
    harness: ModelHarness, server: PostgresServer, use_database: Callable[[str], None]
) -> None:
    """Fault 22: each window meets another fault and is then rerun."""
    with running_tcp_proxy(server.port, free_port()) as proxy:
        faults = [
            server.restart,
            partial(server.kill_backend, "dagster"),
            *(
                partial(proxy.reset_on, request, forwarded=forwarded)
                for request in (COMMIT, EVENT)
                for forwarded in (False, True)
            ),
        ]
        last = len(faults) - 1
        harness.produce_windows(-1, last + 1)
        use_database(server.url("dagster", proxy.port))
        for number, inject_fault in enumerate(faults):
            inject_once("candidate.after", inject_fault)
            error = backfill(harness, number)
            failpoints.on_reached(None)
            assert not proxy.armed
            assert (error is not None) == (number > 1), number
            assert backfill(harness, number) is None, number
        assert not harness.settings.dagster_home.joinpath("history").exists()
        assert set(materialization_counts(harness)) == {
            (asset, harness.window(number).key) for asset in ASSETS for number in range(last + 1)
        }
    assert take_snapshot(harness) == take_snapshot(run_undisturbed(harness, last))
    oracle.assert_consistent(harness)


def test_mlflows_database_killed_or_disconnected_at_a_commit_has_every_window_once(
    harness: ModelHarness, server: PostgresServer
) -> None:
    """Fault 22: existing records are kept, and the next recording completes them."""
    harness.define(gate={"policy": "always"})
    harness.produce_windows(-1, 5)
    with running_tcp_proxy(server.port, free_port()) as proxy, harness.open_model() as ctx:
        initial(ctx)
        uri = server.url("mlflow", proxy.port)

        def record(number: int) -> MlflowTracker:
            recorder = Recorder(ctx, make_tracker(uri, harness))
            recorder.record_window(harness.window(number))
            recorder.flush()
            recorder.record_deployments()
            return recorder.tracker

        resets = [
            partial(proxy.reset_on, COMMIT, forwarded=forwarded) for forwarded in (False, True)
        ]
        run_window(ctx, 0)
        inject_once("run.before", server.restart)
        record(0)
        faults = product(("run.before", "version.before"), resets)
        for number, (failpoint, reset) in enumerate(faults, 1):
            run_window(ctx, number)
            inject_once(failpoint, reset)
            with pytest.raises(TrackerUnavailable, match=r"MLflow at .* could not"):
                record(number)
            failpoints.on_reached(None)
            assert not proxy.armed
            tracker = record(number)
        assert list(find_drift(ctx, tracker).descriptions) == []
        client = MlflowClient(server.url("mlflow"))
        (experiment,) = client.search_experiments(filter_string=f"name = '{harness.model}'")
        windows = [run.info.run_name for run in client.search_runs([experiment.experiment_id])]
        assert sorted(windows) == [harness.window(number).key for number in range(5)]
    oracle.assert_consistent(harness)


def test_full_databases_are_reported_and_a_rerun_with_space_completes(
    harness: ModelHarness, use_database: Callable[[str], None]
) -> None:
    """Fault 4: PostgreSQL on a full disk, under Dagster and under MLflow."""
    with (
        world_accessible_folder() as folder,
        SmallDisk.mounted(folder / "disk", "160m") as disk,
        running_postgres(disk.root / "postgres") as server,
    ):
        harness.produce_windows(-1, 2)
        use_database(server.url("dagster"))
        assert backfill(harness, 0) is None
        tracker = make_tracker(server.url("mlflow"), harness)
        tracker.versions("none")
        inject_once("candidate.before", disk.fill)
        error = backfill(harness, 1)
        failpoints.on_reached(None)
        assert error is not None
        assert "No space left" in error.message
        with harness.open_model() as ctx:
            recorder = Recorder(ctx, tracker)
            with pytest.raises(TrackerUnavailable, match="No space left"):
                recorder.record_window(harness.window(0))
            assert ctx.repository.plan(harness.window(1).key) is not None
            disk.free()
            assert backfill(harness, 1) is None
            recorder = Recorder(ctx, tracker)
            recorder.record_window(harness.window(1))
            recorder.flush()
            recorder.record_deployments()
            assert list(find_drift(ctx, tracker).descriptions) == []
    assert take_snapshot(harness) == take_snapshot(run_undisturbed(harness, 1))
    oracle.assert_consistent(harness)
