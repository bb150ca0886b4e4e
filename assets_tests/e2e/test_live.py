"""A live stream under Dagster's daemon: closed windows are processed, and failures are reported."""

import json
import sys
import time
from pathlib import Path

import pytest

from support.dagster.event_log import open_instance
from support.dagster.webserver import running_dagster
from support.models.harness import START, ModelHarness
from support.models.oracle import assert_consistent
from support.processes.commands import output, run_command, wait_until
from tidemill.defs.sensors import SENSOR_TAG

pytestmark = pytest.mark.faults

APPEND_STDIN = (
    "import sys, pathlib; pathlib.Path(sys.argv[1]).open('a').write(sys.stdin.read() + '\\n')"
)


def alerts(file: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def test_the_daemon_processes_closed_windows_and_stops_before_an_unlearnable_one(
    harness: ModelHarness,
) -> None:
    harness.define(max_reject_share=0.1)
    alerts_file = harness.home / "alerts.jsonl"
    env = harness.env | {
        "TIDEMILL_SENSORS_DEFAULT_STATUS": "running",
        "TIDEMILL_ALERTS__COMMAND": json.dumps(
            [sys.executable, "-c", APPEND_STDIN, str(alerts_file)]
        ),
    }
    harness.produce_windows(-1, 0)
    with running_dagster(env) as ui, harness.open_model() as ctx:
        wait_until(lambda: ctx.chain().head, 120, on_timeout=lambda: output(env, "daemon"))
        closed = time.time()
        harness.produce_windows(1, 3)  # closes the windows 0, 1 and 2
        wait_until(
            lambda: ctx.repository.report(harness.window(2).key),
            120,
            on_timeout=lambda: str(sensor_runs(harness)),
        )
        run = sensor_runs(harness)[-1]
        assert run["windows"] == (harness.window(0).key, harness.window(2).key)
        seconds = run["requested_at"] - closed
        print(f"window close to run request: {seconds:.1f} s")
        assert seconds < 15  # 5 on an idle machine

        def deployed() -> bool:
            return ui.status(run["id"]) == "SUCCESS"

        wait_until(deployed, 60)
        harness.produce(0, [(START + 4 * 300_000 + n, b"no JSON") for n in range(200)])
        harness.produce_windows(4, 5)
        wait_until(
            lambda: any(one["alert"] == "given_up" for one in alerts(alerts_file)),
            120,
            on_timeout=lambda: str(sensor_runs(harness)),
        )
        (given_up,) = [one for one in alerts(alerts_file) if one["alert"] == "given_up"]
        assert "TooManyRejects" in given_up["what"]
        assert ctx.repository.report(harness.window(3).key) is not None
        number = len(sensor_runs(harness))
        wait_until(lambda: output(env, "daemon").count("skipped: Given up. Window") > 1, 60)
        assert len(sensor_runs(harness)) == number
        skip = ("tidemill", "skip", harness.model, harness.window(4).key, "--reason", "no JSON")
        assert run_command(env, *skip).returncode == 0
        harness.produce_windows(6, 6)
        wait_until(
            lambda: ctx.repository.report(harness.window(5).key),
            120,
            on_timeout=lambda: str(sensor_runs(harness)),
        )
    assert_consistent(harness)


def sensor_runs(harness: ModelHarness) -> list[dict[str, object]]:
    """The sensor's runs, oldest first: id, windows, status, and the time of the request."""
    import dagster as dg

    with open_instance(harness) as instance:
        records = instance.get_run_records(dg.RunsFilter(tags={SENSOR_TAG: harness.model}))
    first, last = "dagster/asset_partition_range_start", "dagster/asset_partition_range_end"
    return [
        {
            "id": record.dagster_run.run_id,
            "windows": (record.dagster_run.tags.get(first), record.dagster_run.tags.get(last)),
            "status": record.dagster_run.status.value,
            "requested_at": record.create_timestamp.timestamp(),
        }
        for record in reversed(records)
    ]
