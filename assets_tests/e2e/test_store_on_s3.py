"""A model's whole way with its store on S3-compatible storage, and none of it in a folder."""

from support.models.harness import ModelHarness, run_windows
from support.models.store_snapshot import define_two_windows, take_snapshot
from support.processes.commands import run_command
from support.servers.s3 import S3Server
from support.serving.prediction_server import ROW, running_server


def test_a_cycle_on_s3_leaves_the_same_bytes_as_in_a_folder_and_is_served(
    harness: ModelHarness, s3: S3Server
) -> None:
    """It is also served from the local copy while the storage hangs."""
    define_two_windows(harness)
    on_s3 = s3.move_store(harness.twin("s3"))
    for store_harness in (harness, on_s3):
        with store_harness.open_model() as ctx:
            run_windows(ctx, 0, 1)
            head = ctx.chain().head
    assert head is not None
    assert take_snapshot(on_s3) == take_snapshot(harness)
    assert not (on_s3.home / "store").exists()
    with running_server(on_s3) as server:
        response = server.predict(ROW).json()
        assert response["digest"] == head.entry.digest
        assert server.terminate() == 0
    with s3.paused(), running_server(on_s3, name="alone", startup_timeout=1) as server:
        assert server.predict(ROW).json() == response
        assert server.model_status()["from_local_copy"]
        assert server.model_status()["last_failure"]["error"] == "StoreUnavailable"
        assert server.terminate() == 0
    checked = run_command(on_s3.env, "tidemill", "verify", harness.model, "--recompute")
    assert checked.returncode == 0, checked.stderr
    assert "2 windows rebuilt" in checked.stdout


def test_a_missing_bucket_is_one_clear_error_of_a_command(
    harness: ModelHarness, s3: S3Server
) -> None:
    s3.move_store(harness)
    missing_bucket = {"TIDEMILL_STORE": "s3://no-such-bucket/prefix"}
    done = run_command(harness.env | missing_bucket, "tidemill", "verify", harness.model)
    assert done.returncode == 1
    assert "StoreUnavailable" in done.stderr
    assert "Create the bucket, or change TIDEMILL_STORE." in done.stderr
    assert "Traceback" not in done.stderr
