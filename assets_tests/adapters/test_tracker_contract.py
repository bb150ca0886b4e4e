"""The contract of `Tracker`: in memory, on a local database, and on a real tracking server."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support.processes.commands import background, output, wait_until
from support.servers.http import free_port, responds
from tidemill.adapters.memory import MemoryTracker
from tidemill.adapters.mlflow.tracker import MlflowTracker
from tidemill.core.errors import TrackerUnavailable
from tidemill.core.run_record import RegistryVersion, WindowRun
from tidemill.ports import Tracker

DIGESTS = ["a" * 64, "b" * 64]


def window_run(digest: str = "1" * 64, **metrics: float) -> WindowRun:
    return WindowRun(
        model="tides",
        window="2024-01-01",
        digest=digest,
        timestamp_ms=1_704_067_200_000,
        params={
            "learner.seed": "0",
            "gate.slices": "a, b",
            **{f"p{n}": str(n) for n in range(120)},
        },
        metrics={"loss.champion": 0.5, **metrics},
        tags={"verdict": "keep", "reasons": "x" * 9000, "holdout": ""},
        texts={"report.md": "# A window\n"},
    )


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> MlflowTracker:
    folder = tmp_path_factory.mktemp("mlflow")
    uri, artifacts = f"sqlite:///{folder}/mlflow.db", (folder / "artifacts").as_uri()
    return MlflowTracker(uri, artifacts, "http://ui", 10)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowTracker]:
    folder, port = tmp_path_factory.mktemp("server"), free_port()
    env, address = {"TIDEMILL_HOME": str(folder)}, f"http://127.0.0.1:{port}"
    command = [
        *("mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"),
        *("--backend-store-uri", f"sqlite:///{folder}/mlflow.db"),
        *("--artifacts-destination", str(folder / "artifacts")),
    ]
    with background(env, *command):
        wait_until(lambda: responds(f"{address}/health"), 300, on_timeout=lambda: output(env))
        yield MlflowTracker(address, None, address, 20)


@pytest.fixture(params=["memory", "database", pytest.param("server", marks=pytest.mark.faults)])
def tracker(request: pytest.FixtureRequest) -> Tracker:
    if request.param == "memory":
        return MemoryTracker()
    shared_tracker: Tracker = request.getfixturevalue(request.param)
    return shared_tracker


@pytest.fixture
def model(request: pytest.FixtureRequest) -> str:
    """A separate model per test, because servers are shared."""
    return "m" + str(abs(hash(request.node.name)) % 10**9)


def with_model(model: str, run: WindowRun) -> WindowRun:
    from dataclasses import replace

    return replace(run, model=model)


def record_run(tracker: Tracker, run: WindowRun, parent_run_id: str | None = None) -> str:
    """Record the run and return its id."""
    run_id = tracker.start_run(run.model, run.window, parent_run_id)
    tracker.record(run_id, run)
    return run_id


def test_a_window_that_was_not_recorded_has_no_digest(tracker: Tracker, model: str) -> None:
    assert tracker.recorded_digest(model, "2024-01-01") is None
    tracker.start_run(model, "2024-01-01", None)
    assert tracker.recorded_digest(model, "2024-01-01") is None


def test_a_window_recorded_twice_is_one_run_with_the_newer_record(
    tracker: Tracker, model: str
) -> None:
    first = record_run(tracker, with_model(model, window_run()))
    assert tracker.recorded_digest(model, "2024-01-01") == "1" * 64
    second = record_run(tracker, with_model(model, window_run("2" * 64, auc=0.7)))
    assert second == first
    assert tracker.recorded_digest(model, "2024-01-01") == "2" * 64
    assert first in tracker.run_url(first)


def test_a_parent_run_is_started_where_the_tracker_has_its_data(
    tracker: Tracker, model: str
) -> None:
    addresses: list[str] = []

    def start(address: str) -> str:
        addresses.append(address)
        return f"parent of {model}"

    parent = tracker.start_parent_run(model, start)
    if isinstance(tracker, MlflowTracker):
        assert (parent, addresses) == (f"parent of {model}", [tracker.uri])
        assert tracker._client.get_experiment_by_name(model) is not None
    else:
        assert (parent, addresses) == (None, [])


def test_a_model_registered_twice_is_one_version(tracker: Tracker, model: str) -> None:
    assert tracker.versions(model) == []
    for digest in (*DIGESTS, DIGESTS[0]):
        tracker.register(model, RegistryVersion(digest, {"seq": "0", "reason": "a test"}))
    assert sorted(tracker.versions(model)) == DIGESTS


def test_the_alias_moves_to_a_new_version_and_back_to_an_older_one(
    tracker: Tracker, model: str
) -> None:
    assert tracker.champion(model) is None
    for digest in DIGESTS:
        tracker.register(model, RegistryVersion(digest, {}))
        tracker.set_champion(model, digest)
        assert tracker.champion(model) == digest
    tracker.set_champion(model, DIGESTS[0])
    assert tracker.champion(model) == DIGESTS[0]


def test_a_run_of_a_window_is_nested_and_complete(database: MlflowTracker, model: str) -> None:
    client = database._client
    parent = client.create_run(database.experiment_id(model)).info.run_id
    run = client.get_run(record_run(database, with_model(model, window_run(auc=0.7)), parent))
    assert run.data.tags["mlflow.parentRunId"] == parent
    assert run.data.tags["tidemill.verdict"] == "keep"
    assert len(run.data.params) == 122
    assert run.data.metrics == {"loss.champion": 0.5, "auc": 0.7}
    assert run.info.status == "FINISHED"
    assert [file.path for file in client.list_artifacts(run.info.run_id)] == ["report.md"]


def unavailable_trackers() -> Iterator[tuple[str, Callable[[Path], Tracker]]]:
    yield "memory", lambda _: MemoryTracker(unavailable=True)
    yield "refused", lambda _: MlflowTracker("http://127.0.0.1:1", None, "http://ui", 1)
    postgres = "postgresql+psycopg2://mlflow@127.0.0.1:1/mlflow"
    yield "no server of the database", lambda _: MlflowTracker(postgres, None, "http://ui", 1)
    yield (
        "unwritable",
        lambda folder: MlflowTracker(f"sqlite:////proc/{folder.name}/no.db", None, "http://ui", 1),
    )


@pytest.mark.parametrize(
    "broken", [pytest.param(make, id=name) for name, make in unavailable_trackers()]
)
def test_an_unavailable_tracker_is_reported_in_time(
    broken: Callable[[Path], Tracker], tmp_path: Path
) -> None:
    tracker = broken(tmp_path)
    started_at = time.monotonic()
    for call in (
        lambda: tracker.recorded_digest("tides", "w"),
        lambda: tracker.start_parent_run("tides", lambda address: "parent"),
        lambda: tracker.start_run("tides", "w", None),
        lambda: tracker.champion("tides"),
        lambda: tracker.versions("tides"),
    ):
        with pytest.raises(TrackerUnavailable):
            call()
    assert time.monotonic() - started_at < 60
