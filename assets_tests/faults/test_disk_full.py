"""A disk that fills up at a commit: the window stays planned, a rerun gives the same bytes."""

import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from faults.small_disk import SmallDisk
from support.models import oracle
from support.models.harness import ModelHarness, run_window
from support.models.store_snapshot import define_two_windows, take_snapshot
from support.processes.workers import run_all
from support.servers.s3 import running_s3_server
from tidemill import failpoints
from tidemill.adapters.mlflow.tracker import MlflowTracker
from tidemill.core.errors import StoreFull, TrackerUnavailable
from tidemill.cycle.steps.initial import initial
from tidemill.cycle.tracking import Recorder, find_drift

pytestmark = pytest.mark.faults

_COMMITS = (
    *("plan", "file", "manifest", "bundle", "initial", "ledger", "entry"),
    *("lineage", "candidate", "report"),
)
"""In the order in which a first run reaches them."""


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with SmallDisk.mounted(tmp_path / "small", "1m") as mounted:
        yield mounted


def _fill_at(failpoint: str, disk: SmallDisk, reached_since: list[str], reached: str) -> None:
    """Fill the disk when `failpoint` is first reached; `reached_since` collects from there on."""
    if reached == failpoint and not reached_since:
        disk.fill()
    if reached_since or reached == failpoint:
        reached_since.append(reached)


def test_a_full_disk_at_each_commit_is_reported_and_a_rerun_with_space_completes(
    harness: ModelHarness, small_disk: SmallDisk, kafka_folder: Path
) -> None:
    """Fault 4: for data, manifest, model and every other record."""
    define_two_windows(harness)
    with harness.open_model() as ctx:
        run_all(ctx, 1)
    twin = harness.twin("full")
    (twin.home / "store").symlink_to(small_disk.root)
    for commit in _COMMITS:
        with twin.open_model() as ctx:
            reached_since: list[str] = []
            failpoints.on_reached(partial(_fill_at, f"{commit}.before", small_disk, reached_since))
            with pytest.raises(StoreFull, match=r"No space left.*Free some space"):
                run_all(ctx, 1)
            failpoints.on_reached(None)
            small_disk.free()
        assert reached_since.count(f"{commit}.after") == 0
        assert not [*(small_disk.root / twin.model / ".tmp").glob("*")]
    with twin.open_model() as ctx:
        run_all(ctx, 1)
    assert take_snapshot(twin) == take_snapshot(harness)
    oracle.assert_consistent(twin)
    oracle.assert_matches_log(twin, kafka_folder)


def test_a_window_whose_batch_found_no_space_stays_planned_and_gives_the_same_batch(
    harness: ModelHarness, small_disk: SmallDisk
) -> None:
    """Fault 4."""
    define_two_windows(harness)
    twin = harness.twin("full")
    (twin.home / "store").symlink_to(small_disk.root)
    with harness.open_model() as ctx:
        initial(ctx)
        run_window(ctx, 0)
        expected = ctx.repository.manifest(harness.window(0).key)
    for commit in ("file", "manifest"):
        with twin.open_model() as ctx:
            initial(ctx)
            failpoints.on_reached(partial(_fill_at, f"{commit}.before", small_disk, []))
            with pytest.raises(StoreFull):
                run_window(ctx, 0)
            failpoints.on_reached(None)
            small_disk.free()
            assert ctx.repository.plan(twin.window(0).key) is not None
            assert ctx.repository.manifest(twin.window(0).key) is None
    with twin.open_model() as ctx:
        run_window(ctx, 0)
        assert ctx.repository.manifest(twin.window(0).key) == expected
    oracle.assert_consistent(twin)


def test_a_full_mlflow_database_is_reported_and_the_deployment_stays_valid(
    harness: ModelHarness, small_disk: SmallDisk
) -> None:
    """Fault 4: MLflow's database is a mirror, which the next run completes once there is space."""
    define_two_windows(harness)
    database, artifacts = small_disk.root / "mlflow.db", (small_disk.root / "artifacts").as_uri()

    def tracker() -> MlflowTracker:
        return MlflowTracker(f"sqlite:///{database}", artifacts, "", 10)

    subprocess.run(["mount", "-o", "remount,size=8m", str(small_disk.root)], check=True)
    tracker().versions("none")
    with harness.open_model() as ctx:
        initial(ctx)
        run_window(ctx, 0)
        small_disk.fill()
        with pytest.raises(TrackerUnavailable, match="full"):
            Recorder(ctx, tracker()).record_window(harness.window(0))
        small_disk.free()
        recorder = Recorder(ctx, tracker())
        recorder.record_window(harness.window(0))
        recorder.record_deployments()
        assert list(find_drift(ctx, recorder.tracker).descriptions) == []
    oracle.assert_consistent(harness)


def test_full_s3_storage_is_reported_and_accepts_the_same_name_with_space(
    small_disk: SmallDisk,
) -> None:
    """Fault 4 on S3, whose server reports a full disk."""
    with running_s3_server(small_disk.root) as s3:
        store = s3.open_store(s3.create_bucket("bucket"), timeout=1)
        small_disk.fill()
        with pytest.raises(StoreFull, match=r"No space left.*Free some space"):
            store.put("m/a", b"x" * 10_000)
        assert store.get("m/a") is None
        small_disk.free()
        assert store.put("m/a", b"x" * 10_000)
        assert store.get("m/a") == b"x" * 10_000
