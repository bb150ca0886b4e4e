"""A live stream under Dagster's own daemon: windows close, one run takes them, trouble is told."""

import json
import sys
import time
from pathlib import Path

import pytest

from dagster_event_log import open_instance
from dagster_webserver import running_dagster
from model_harness import START, ModelHarness
from oracle import assert_consistent
from processes import output, run_command, wait_until
from tidemill.defs.sensors import SENSOR_TAG

pytestmark = pytest.mark.faults

APPEND_STDIN = (
    "import sys, pathlib; pathlib.Path(sys.argv[1]).open('a').write(sys.stdin.read() + '\\n')"
)


def alerts(file: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def test_a_daemon_takes_what_the_log_has_closed_and_stops_before_what_it_cannot_mend(
    harness: ModelHarness,
) -> None:
    harness.define(max_reject_share=0.1)
    told = harness.home / "alerts.jsonl"
    environment = harness.env | {
        "TIDEMILL_SENSORS_DEFAULT_STATUS": "running",
        "TIDEMILL_ALERTS__COMMAND": json.dumps([sys.executable, "-c", APPEND_STDIN, str(told)]),
    }
    harness.produce_windows(-1, 0)
    with running_dagster(environment) as ui, harness.open_model() as mill:
        wait_until(lambda: mill.chain().head, 120, lambda: output(environment, "daemon"))
        closed = time.time()
        harness.produce_windows(1, 3)  # closes the windows 0, 1 and 2
        wait_until(
            lambda: mill.repository.report(harness.window(2).key),
            120,
            lambda: str(sensor_runs(harness)),
        )
        taken = sensor_runs(harness)[-1]
        assert taken["windows"] == (harness.window(0).key, harness.window(2).key)
        seconds = taken["asked"] - closed
        print(f"window close to run request: {seconds:.1f} s")
        assert seconds < 15  # 5 on a machine with nothing else to do

        def deployed() -> bool:
            return ui.status(taken["id"]) == "SUCCESS"

        wait_until(deployed, 60)
        harness.produce(0, [(START + 4 * 300_000 + n, b"no JSON") for n in range(200)])
        harness.produce_windows(4, 5)
        wait_until(
            lambda: any(one["alert"] == "given_up" for one in alerts(told)),
            120,
            lambda: str(sensor_runs(harness)),
        )
        (given_up,) = [one for one in alerts(told) if one["alert"] == "given_up"]
        assert "TooManyRejects" in given_up["what"]
        assert mill.repository.report(harness.window(3).key) is not None
        number = len(sensor_runs(harness))
        wait_until(lambda: output(environment, "daemon").count("skipped: Given up. Window") > 1, 60)
        assert len(sensor_runs(harness)) == number
        skip = ("tidemill", "skip", harness.model, harness.window(4).key, "--reason", "no JSON")
        assert run_command(environment, *skip).returncode == 0
        harness.produce_windows(6, 6)
        wait_until(
            lambda: mill.repository.report(harness.window(5).key),
            120,
            lambda: str(sensor_runs(harness)),
        )
    assert_consistent(harness)


def sensor_runs(harness: ModelHarness) -> list[dict[str, object]]:
    """The sensor's runs, the oldest first: id, windows, status, and when each was asked for."""
    import dagster as dg

    with open_instance(harness) as instance:
        records = instance.get_run_records(dg.RunsFilter(tags={SENSOR_TAG: harness.model}))
    first, last = "dagster/asset_partition_range_start", "dagster/asset_partition_range_end"
    return [
        {
            "id": record.dagster_run.run_id,
            "windows": (record.dagster_run.tags.get(first), record.dagster_run.tags.get(last)),
            "status": record.dagster_run.status.value,
            "asked": record.create_timestamp.timestamp(),
        }
        for record in reversed(records)
    ]
