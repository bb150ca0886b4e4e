"""A live stream under Dagster's own daemon: windows close, one run takes them, trouble is told."""

import json
import sys
import time
from pathlib import Path

import pytest

from bench import START, Bench
from commands import command, said, until
from dagster_ui import served
from event_log import instance_of
from oracle import check
from tidemill.defs.sensors import SENSOR_TAG

pytestmark = pytest.mark.faults

TAKE = "import sys, pathlib; pathlib.Path(sys.argv[1]).open('a').write(sys.stdin.read() + '\\n')"


def alerts(file: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def test_a_daemon_takes_what_the_log_has_closed_and_stops_before_what_it_cannot_mend(
    bench: Bench,
) -> None:
    bench.define(max_reject_share=0.1)
    told = bench.home / "alerts.jsonl"
    environment = bench.environment | {
        "TIDEMILL_SENSORS": "running",
        "TIDEMILL_ALERTS__COMMAND": json.dumps([sys.executable, "-c", TAKE, str(told)]),
    }
    bench.feed(-1, 0)
    with served(environment) as ui, bench.mill() as mill:
        until(lambda: mill.chain().head, 120, lambda: said(environment, "daemon"))
        closed = time.time()
        bench.feed(1, 3)  # closes the windows 0, 1 and 2
        until(lambda: mill.repository.report(bench.window(2).key), 120, lambda: str(runs(bench)))
        taken = runs(bench)[-1]
        assert taken["windows"] == (bench.window(0).key, bench.window(2).key)
        seconds = taken["asked"] - closed
        print(f"window close to run request: {seconds:.1f} s")
        assert seconds < 15  # 5 on a machine with nothing else to do

        def deployed() -> bool:
            return ui.status(taken["id"]) == "SUCCESS"

        until(deployed, 60)
        bench.put(0, [(START + 4 * 300_000 + n, b"no JSON") for n in range(200)])
        bench.feed(4, 5)
        until(
            lambda: any(one["alert"] == "given_up" for one in alerts(told)),
            120,
            lambda: str(runs(bench)),
        )
        (given_up,) = [one for one in alerts(told) if one["alert"] == "given_up"]
        assert "TooManyRejects" in given_up["what"]
        assert mill.repository.report(bench.window(3).key) is not None
        number = len(runs(bench))
        until(lambda: said(environment, "daemon").count("skipped: Given up. Window") > 1, 60)
        assert len(runs(bench)) == number
        skip = ("tidemill", "skip", bench.model, bench.window(4).key, "--why", "no JSON")
        assert command(environment, *skip).returncode == 0
        bench.feed(6, 6)
        until(lambda: mill.repository.report(bench.window(5).key), 120, lambda: str(runs(bench)))
    check(bench)


def runs(bench: Bench) -> list[dict[str, object]]:
    """The sensor's runs, the oldest first: id, windows, status, and when each was asked for."""
    import dagster as dg

    with instance_of(bench) as instance:
        records = instance.get_run_records(dg.RunsFilter(tags={SENSOR_TAG: bench.model}))
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
