"""PostgreSQL under Dagster and MLflow: killed, cut off at a commit, without space; one result.

Neither database is asked what is true: store and ledger are.
"""

from collections.abc import Callable, Iterator
from functools import partial
from itertools import product

import pytest
from mlflow.tracking import MlflowClient

import oracle
from dagster_event_log import ASSETS, materialization_counts
from dagster_webserver import free_port
from model_harness import ModelHarness, run_window, run_windows
from postgres_server import PostgresServer, running_postgres, world_accessible_folder
from small_disk import SmallDisk
from store_snapshot import take_snapshot
from tcp_fault_proxy import running_tcp_proxy
from tidemill import failpoints
from tidemill.adapters.mlflow import MlflowTracker
from tidemill.cli.backfill import run_backfill
from tidemill.core.errors import InstanceUnavailable, TrackerUnavailable
from tidemill.cycle.initial import initial
from tidemill.cycle.tracking import Recorder, find_drift

pytestmark = [
    pytest.mark.faults,
    pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecatedSince20"),  # Dagster's
]

COMMIT, EVENT = b"COMMIT", b"INSERT INTO event_logs"
"""What asks PostgreSQL to commit: in so many words, and a statement that commits by itself."""


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with world_accessible_folder() as folder, running_postgres(folder / "postgres") as running:
        yield running


@pytest.fixture
def use_database(harness: ModelHarness, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Tells this process of the bench, and where Dagster's database is."""

    def set_url(url: str) -> None:
        monkeypatch.setenv("DAGSTER_POSTGRES_URL", url)

    for name, value in harness.env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("DAGSTER_HOME", str(harness.settings.dagster_home))
    harness.define(gate={"policy": "always"})
    return set_url


def backfill(harness: ModelHarness, number: int) -> InstanceUnavailable | None:
    """Take this window through Dagster; how its database ended that, if it did."""
    key = harness.window(number).key
    try:
        run_backfill(harness.settings, harness.model, harness.load_spec(), key, key, quiet=True)
    except InstanceUnavailable as error:
        return error
    return None


def inject_once(failpoint: str, inject_fault: Callable[[], object]) -> None:
    """Do harm when this place is reached for the first time."""
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


def test_dagsters_database_killed_or_cut_off_at_a_commit_leaves_one_result(
    harness: ModelHarness, server: PostgresServer, use_database: Callable[[str], None]
) -> None:
    """Row 22: each window meets another fault, then is run again."""
    with running_tcp_proxy(server.port, free_port()) as proxy:
        faults = [
            server.restart,
            partial(server.kill_backend, "dagster"),
            *(
                partial(proxy.reset_on, asked, forwarded=passed)
                for asked in (COMMIT, EVENT)
                for passed in (False, True)
            ),
        ]
        last = len(faults) - 1
        harness.produce_windows(-1, last + 1)
        use_database(server.url("dagster", proxy.port))
        for number, harm in enumerate(faults):
            inject_once("candidate.after", harm)
            ended = backfill(harness, number)
            failpoints.on_reached(None)
            assert not proxy.armed
            assert (ended is not None) == (number > 1), number
            assert backfill(harness, number) is None, number
        assert not harness.settings.dagster_home.joinpath("history").exists()
        assert set(materialization_counts(harness)) == {
            (asset, harness.window(number).key) for asset in ASSETS for number in range(last + 1)
        }
    assert take_snapshot(harness) == take_snapshot(run_undisturbed(harness, last))
    oracle.assert_consistent(harness)


def test_mlflows_database_killed_or_cut_off_at_a_commit_has_every_window_once(
    harness: ModelHarness, server: PostgresServer
) -> None:
    """Row 22: what stands is not touched, and the next record completes it."""
    harness.define(gate={"policy": "always"})
    harness.produce_windows(-1, 5)
    with running_tcp_proxy(server.port, free_port()) as proxy, harness.open_model() as mill:
        initial(mill)
        uri = server.url("mlflow", proxy.port)

        def record(number: int) -> MlflowTracker:
            recorder = Recorder(mill, make_tracker(uri, harness))
            recorder.record_window(harness.window(number))
            recorder.flush()
            recorder.record_deployments()
            return recorder.tracker

        cut = [partial(proxy.reset_on, COMMIT, forwarded=passed) for passed in (False, True)]
        run_window(mill, 0)
        inject_once("run.before", server.restart)
        record(0)
        faults = product(("run.before", "version.before"), cut)
        for number, (place, harm) in enumerate(faults, 1):
            run_window(mill, number)
            inject_once(place, harm)
            with pytest.raises(TrackerUnavailable, match=r"MLflow at .* did not"):
                record(number)
            failpoints.on_reached(None)
            assert not proxy.armed
            tracker = record(number)
        assert list(find_drift(mill, tracker).descriptions) == []
        client = MlflowClient(server.url("mlflow"))
        (experiment,) = client.search_experiments(filter_string=f"name = '{harness.model}'")
        windows = [each.info.run_name for each in client.search_runs([experiment.experiment_id])]
        assert sorted(windows) == [harness.window(number).key for number in range(5)]
    oracle.assert_consistent(harness)


def test_databases_without_space_are_named_and_with_space_all_is_as_ever(
    harness: ModelHarness, use_database: Callable[[str], None]
) -> None:
    """Row 4: PostgreSQL on a full disk, under Dagster and under MLflow."""
    with (
        world_accessible_folder() as folder,
        SmallDisk.mounted(folder / "disk", "160m") as small,
        running_postgres(small.root / "postgres") as server,
    ):
        harness.produce_windows(-1, 2)
        use_database(server.url("dagster"))
        assert backfill(harness, 0) is None
        tracker = make_tracker(server.url("mlflow"), harness)
        tracker.versions("none")
        inject_once("candidate.before", small.fill)
        ended = backfill(harness, 1)
        failpoints.on_reached(None)
        assert ended is not None
        assert "No space left" in ended.message
        with harness.open_model() as mill:
            recorder = Recorder(mill, tracker)
            with pytest.raises(TrackerUnavailable, match="No space left"):
                recorder.record_window(harness.window(0))
            assert mill.repository.plan(harness.window(1).key) is not None
            small.free()
            assert backfill(harness, 1) is None
            recorder = Recorder(mill, tracker)
            recorder.record_window(harness.window(1))
            recorder.flush()
            recorder.record_deployments()
            assert list(find_drift(mill, tracker).descriptions) == []
    assert take_snapshot(harness) == take_snapshot(run_undisturbed(harness, 1))
    oracle.assert_consistent(harness)
