"""A model's whole way with its store on S3-compatible storage, and none of it in a folder."""

from model_harness import ModelHarness, run_windows
from prediction_server import ROW, running_server
from processes import run_command
from s3_server import S3Server
from store_snapshot import define_two_windows, take_snapshot


def test_a_cycle_on_s3_leaves_the_same_bytes_as_in_a_folder_and_is_served(
    harness: ModelHarness, s3: S3Server
) -> None:
    """Served from the local copy, too, while the storage hangs."""
    define_two_windows(harness)
    on_s3 = s3.move_store(harness.twin("s3"))
    for one in (harness, on_s3):
        with one.open_model() as mill:
            run_windows(mill, 0, 1)
            head = mill.chain().head
    assert head is not None
    assert take_snapshot(on_s3) == take_snapshot(harness)
    assert not (on_s3.home / "store").exists()
    with running_server(on_s3) as server:
        told = server.predict(ROW).json()
        assert told["digest"] == head.entry.digest
        assert server.terminate() == 0
    with s3.paused(), running_server(on_s3, name="alone", patience=1) as server:
        assert server.predict(ROW).json() == told
        assert server.model_status()["from_local_copy"]
        assert server.model_status()["last_failure"]["error"] == "StoreUnavailable"
        assert server.terminate() == 0
    checked = run_command(on_s3.env, "tidemill", "verify", harness.model, "--recompute")
    assert checked.returncode == 0, checked.stderr
    assert "2 windows made again" in checked.stdout


def test_a_bucket_that_is_not_there_is_one_clear_error_of_a_command(
    harness: ModelHarness, s3: S3Server
) -> None:
    s3.move_store(harness)
    wrong = {"TIDEMILL_STORE": "s3://no-such-bucket/here"}
    done = run_command(harness.env | wrong, "tidemill", "verify", harness.model)
    assert done.returncode == 1
    assert "StoreUnavailable" in done.stderr
    assert "Create the bucket, or change TIDEMILL_STORE." in done.stderr
    assert "Traceback" not in done.stderr
