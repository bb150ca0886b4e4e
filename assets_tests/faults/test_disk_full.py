"""The disk full in the midst of a commit: named, the window stays planned, then the same bytes."""

import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

import oracle
from bench import Bench, turn
from children import journey
from disks import Small
from kept import define_two_windows, kept
from s3_hands import s3_server
from tidemill import failpoints
from tidemill.adapters.mlflow import MlflowTracker
from tidemill.core.errors import StoreFull, TrackerUnavailable
from tidemill.cycle.initial import initial
from tidemill.cycle.record import Recorder, find_drift

pytestmark = pytest.mark.faults

_COMMITS = (
    *("plan", "file", "manifest", "bundle", "initial", "ledger", "entry"),
    *("line", "candidate", "report"),
)
"""In the order in which a first run comes by them."""


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Small]:
    with Small.mounted(tmp_path / "small", "1m") as mounted:
        yield mounted


def _fill_at(place: str, small: Small, seen: list[str], reached: str) -> None:
    """Fill the disk where this place is reached for the first time; `seen` is what came then."""
    if reached == place and not seen:
        small.fill()
    if seen or reached == place:
        seen.append(reached)


def test_a_disk_that_fills_up_before_each_commit_is_named_and_with_space_all_is_as_ever(
    bench: Bench, small: Small, kafka_folder: Path
) -> None:
    """Row 4: data, manifest, model, and every other record."""
    define_two_windows(bench)
    with bench.mill() as mill:
        journey(mill, 1)
    twin = bench.twin("full")
    (twin.home / "store").symlink_to(small.root)
    for commit in _COMMITS:
        with twin.mill() as mill:
            seen: list[str] = []
            failpoints.on_reached(partial(_fill_at, f"{commit}.before", small, seen))
            with pytest.raises(StoreFull, match=r"No space left.*Free some space"):
                journey(mill, 1)
            failpoints.on_reached(None)
            small.free()
        assert seen.count(f"{commit}.after") == 0
        assert not [*(small.root / twin.model / ".tmp").glob("*")]
    with twin.mill() as mill:
        journey(mill, 1)
    assert kept(twin) == kept(bench)
    oracle.check(twin)
    oracle.check_against_the_log(twin, kafka_folder)


def test_a_window_whose_batch_found_no_space_stays_planned_and_comes_out_the_same(
    bench: Bench, small: Small
) -> None:
    """Row 4."""
    define_two_windows(bench)
    twin = bench.twin("full")
    (twin.home / "store").symlink_to(small.root)
    with bench.mill() as mill:
        initial(mill)
        turn(mill, 0)
        expected = mill.repository.manifest(bench.window(0).key)
    for commit in ("file", "manifest"):
        with twin.mill() as mill:
            initial(mill)
            failpoints.on_reached(partial(_fill_at, f"{commit}.before", small, []))
            with pytest.raises(StoreFull):
                turn(mill, 0)
            failpoints.on_reached(None)
            small.free()
            assert mill.repository.plan(twin.window(0).key) is not None
            assert mill.repository.manifest(twin.window(0).key) is None
    with twin.mill() as mill:
        turn(mill, 0)
        assert mill.repository.manifest(twin.window(0).key) == expected
    oracle.check(twin)


def test_a_database_without_space_is_named_and_the_deployment_stands(
    bench: Bench, small: Small
) -> None:
    """Row 4: MLflow's database, which is a mirror: with space again the next run fills it."""
    define_two_windows(bench)
    database, artifacts = small.root / "mlflow.db", (small.root / "artifacts").as_uri()

    def tracker() -> MlflowTracker:
        return MlflowTracker(f"sqlite:///{database}", artifacts, "", 10)

    subprocess.run(["mount", "-o", "remount,size=8m", str(small.root)], check=True)
    tracker().versions("none")
    with bench.mill() as mill:
        initial(mill)
        turn(mill, 0)
        small.fill()
        with pytest.raises(TrackerUnavailable, match="full"):
            Recorder(mill, tracker()).record_window(bench.window(0))
        small.free()
        recorder = Recorder(mill, tracker())
        recorder.record_window(bench.window(0))
        recorder.record_deployments()
        assert list(find_drift(mill, recorder.tracker).descriptions) == []
    oracle.check(bench)


def test_storage_without_space_is_named_and_with_space_takes_the_same_name(small: Small) -> None:
    """Row 4 on S3, whose server answers that its disk is full."""
    with s3_server(small.root) as s3:
        store = s3.store(s3.bucket("bucket"), timeout=1)
        small.fill()
        with pytest.raises(StoreFull, match=r"No space left.*Give the storage some space"):
            store.put("m/a", b"x" * 10_000)
        assert store.get("m/a") is None
        small.free()
        assert store.put("m/a", b"x" * 10_000)
        assert store.get("m/a") == b"x" * 10_000
