"""The main job over a whole year of real flights, and everything made again from Kafka."""

import json
from pathlib import Path

import pytest

from processes import run_command


@pytest.mark.faults
@pytest.mark.timeout(1500)
def test_a_year_made_in_one_run_is_made_again_window_by_window_digest_for_digest(
    tmp_path: Path,
) -> None:
    here = {"TIDEMILL_HOME": str(tmp_path)}
    made = run_command(here, "tidemill", "demo", "--until", "2013-12-31", timeout=1200)
    assert made.returncode == 0, made.stderr
    summary = json.loads((tmp_path / "demo" / "summary.json").read_text())
    served, told = summary["serving"], summary["summary"]
    assert served["failed"] == 0
    assert 100 < served["swaps"] < told["deployments"]
    assert told["windows"] == sum(told["verdicts"].values()) == 334
    assert told["losses"]["champion"] < told["losses"]["initial"]
    checked = run_command(
        here, "tidemill", "verify", "flights", "--recompute", "--json", timeout=1200
    )
    assert checked.returncode == 0, checked.stderr
    verified = json.loads(checked.stdout)
    assert verified["findings"] == []
    assert verified["plans"] == verified["batches"] == 335
    assert verified["candidates"] == verified["reports"] == verified["recomputed"] == 334
