"""PostgreSQL under Dagster and MLflow: killed, cut off at a commit, without space; one result.

Neither database is asked what is true: store and ledger are.
"""

from collections.abc import Callable, Iterator
from functools import partial
from itertools import product

import pytest
from mlflow.tracking import MlflowClient

import oracle
from bench import Bench, run, turn
from dagster_ui import free_port
from disks import Small
from event_log import ASSETS, materialized
from kept import kept
from postgres_hands import Server, postgres_at, reachable
from tcp_proxy import proxied
from tidemill import failpoints
from tidemill.adapters.mlflow import MlflowTracker
from tidemill.cli.backfill import run_backfill
from tidemill.core.errors import InstanceUnavailable, TrackerUnavailable
from tidemill.cycle.initial import initial
from tidemill.cycle.record import Recorder, find_drift

pytestmark = [
    pytest.mark.faults,
    pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecatedSince20"),  # Dagster's
]

COMMIT, EVENT = b"COMMIT", b"INSERT INTO event_logs"
"""What asks PostgreSQL to commit: in so many words, and a statement that commits by itself."""


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with reachable() as folder, postgres_at(folder / "postgres") as made:
        yield made


@pytest.fixture
def told(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Tells this process of the bench, and where Dagster's database is."""

    def tell(url: str) -> None:
        monkeypatch.setenv("DAGSTER_POSTGRES_URL", url)

    for name, value in bench.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("DAGSTER_HOME", str(bench.settings.dagster_home))
    bench.define(gate={"policy": "always"})
    return tell


def backfill(bench: Bench, number: int) -> InstanceUnavailable | None:
    """Take this window through Dagster; how its database ended that, if it did."""
    key = bench.window(number).key
    try:
        run_backfill(bench.settings, bench.model, bench.spec_of(), key, key, quiet=True)
    except InstanceUnavailable as error:
        return error
    return None


def once_at(place: str, harm: Callable[[], object]) -> None:
    """Do harm when this place is reached for the first time."""
    seen: list[str] = []

    def look(reached: str) -> None:
        if reached == place and not seen:
            seen.append(reached)
            harm()

    failpoints.on_reached(look)


def tracker_at(uri: str, bench: Bench) -> MlflowTracker:
    return MlflowTracker(uri, (bench.home / "artifacts").as_uri(), "", 5)


def undisturbed(bench: Bench, last: int) -> Bench:
    twin = bench.twin("undisturbed")
    with twin.mill() as mill:
        run(mill, 0, last)
    return twin


def test_dagsters_database_killed_or_cut_off_at_a_commit_leaves_one_result(
    bench: Bench, server: Server, told: Callable[[str], None]
) -> None:
    """Row 22: each window meets another fault, then is run again."""
    with proxied(server.port, free_port()) as proxy:
        faults = [
            server.restart,
            partial(server.kill_backend, "dagster"),
            *(
                partial(proxy.reset_at, asked, passed=passed)
                for asked in (COMMIT, EVENT)
                for passed in (False, True)
            ),
        ]
        last = len(faults) - 1
        bench.feed(-1, last + 1)
        told(server.url("dagster", proxy.port))
        for number, harm in enumerate(faults):
            once_at("candidate.after", harm)
            ended = backfill(bench, number)
            failpoints.on_reached(None)
            assert not proxy.armed
            assert (ended is not None) == (number > 1), number
            assert backfill(bench, number) is None, number
        assert not bench.settings.dagster_home.joinpath("history").exists()
        assert set(materialized(bench)) == {
            (asset, bench.window(number).key) for asset in ASSETS for number in range(last + 1)
        }
    assert kept(bench) == kept(undisturbed(bench, last))
    oracle.check(bench)


def test_mlflows_database_killed_or_cut_off_at_a_commit_has_every_window_once(
    bench: Bench, server: Server
) -> None:
    """Row 22: what stands is not touched, and the next record completes it."""
    bench.define(gate={"policy": "always"})
    bench.feed(-1, 5)
    with proxied(server.port, free_port()) as proxy, bench.mill() as mill:
        initial(mill)
        uri = server.url("mlflow", proxy.port)

        def record(number: int) -> MlflowTracker:
            recorder = Recorder(mill, tracker_at(uri, bench))
            recorder.record_window(bench.window(number))
            recorder.flush()
            recorder.record_deployments()
            return recorder.tracker

        cut = [partial(proxy.reset_at, COMMIT, passed=passed) for passed in (False, True)]
        turn(mill, 0)
        once_at("run.before", server.restart)
        record(0)
        faults = product(("run.before", "version.before"), cut)
        for number, (place, harm) in enumerate(faults, 1):
            turn(mill, number)
            once_at(place, harm)
            with pytest.raises(TrackerUnavailable, match=r"MLflow at .* did not"):
                record(number)
            failpoints.on_reached(None)
            assert not proxy.armed
            tracker = record(number)
        assert list(find_drift(mill, tracker).descriptions) == []
        client = MlflowClient(server.url("mlflow"))
        (experiment,) = client.search_experiments(filter_string=f"name = '{bench.model}'")
        windows = [each.info.run_name for each in client.search_runs([experiment.experiment_id])]
        assert sorted(windows) == [bench.window(number).key for number in range(5)]
    oracle.check(bench)


def test_databases_without_space_are_named_and_with_space_all_is_as_ever(
    bench: Bench, told: Callable[[str], None]
) -> None:
    """Row 4: PostgreSQL on a full disk, under Dagster and under MLflow."""
    with (
        reachable() as folder,
        Small.mounted(folder / "disk", "160m") as small,
        postgres_at(small.root / "postgres") as server,
    ):
        bench.feed(-1, 2)
        told(server.url("dagster"))
        assert backfill(bench, 0) is None
        tracker = tracker_at(server.url("mlflow"), bench)
        tracker.versions("none")
        once_at("candidate.before", small.fill)
        ended = backfill(bench, 1)
        failpoints.on_reached(None)
        assert ended is not None
        assert "No space left" in ended.message
        with bench.mill() as mill:
            recorder = Recorder(mill, tracker)
            with pytest.raises(TrackerUnavailable, match="No space left"):
                recorder.record_window(bench.window(0))
            assert mill.repository.plan(bench.window(1).key) is not None
            small.free()
            assert backfill(bench, 1) is None
            recorder = Recorder(mill, tracker)
            recorder.record_window(bench.window(1))
            recorder.flush()
            recorder.record_deployments()
            assert list(find_drift(mill, tracker).descriptions) == []
    assert kept(bench) == kept(undisturbed(bench, 1))
    oracle.check(bench)
