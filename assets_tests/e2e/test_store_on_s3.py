"""A model's whole way with its store on S3-compatible storage, and none of it in a folder."""

from bench import Bench, run
from commands import command
from kept import define_two_windows, kept
from s3_hands import S3
from serving_hands import ROW, serving


def test_a_cycle_on_s3_leaves_the_same_bytes_as_in_a_folder_and_is_served(
    bench: Bench, s3: S3
) -> None:
    """Served from the local copy, too, while the storage hangs."""
    define_two_windows(bench)
    on_s3 = s3.put_under(bench.twin("s3"))
    for one in (bench, on_s3):
        with one.mill() as mill:
            run(mill, 0, 1)
            head = mill.chain().head
    assert head is not None
    assert kept(on_s3) == kept(bench)
    assert not (on_s3.home / "store").exists()
    with serving(on_s3) as server:
        told = server.predict(ROW).json()
        assert told["digest"] == head.entry.digest
        assert server.ended() == 0
    with s3.stopped(), serving(on_s3, name="alone", patience=1) as server:
        assert server.predict(ROW).json() == told
        assert server.model()["from_local_copy"]
        assert server.model()["last_failure"]["error"] == "StoreUnavailable"
        assert server.ended() == 0
    checked = command(on_s3.environment, "tidemill", "verify", bench.model, "--recompute")
    assert checked.returncode == 0, checked.stderr
    assert "2 windows made again" in checked.stdout


def test_a_bucket_that_is_not_there_is_one_clear_error_of_a_command(bench: Bench, s3: S3) -> None:
    s3.put_under(bench)
    wrong = {"TIDEMILL_STORE": "s3://no-such-bucket/here"}
    done = command(bench.environment | wrong, "tidemill", "verify", bench.model)
    assert done.returncode == 1
    assert "StoreUnavailable" in done.stderr
    assert "Create the bucket, or change TIDEMILL_STORE." in done.stderr
    assert "Traceback" not in done.stderr
