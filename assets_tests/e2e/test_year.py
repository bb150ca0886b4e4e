"""The complete cycle over a year of real flights, and a recomputation of it from Kafka."""

import json
from pathlib import Path

import pytest

from support.processes.commands import run_command


@pytest.mark.faults
@pytest.mark.timeout(1500)
def test_a_year_processed_in_one_run_is_recomputed_with_the_same_digests(
    tmp_path: Path,
) -> None:
    env = {"TIDEMILL_HOME": str(tmp_path)}
    demo = run_command(env, "tidemill", "demo", "--until", "2013-12-31", timeout=1200)
    assert demo.returncode == 0, demo.stderr
    result = json.loads((tmp_path / "demo" / "summary.json").read_text())
    serving, summary = result["serving"], result["summary"]
    assert serving["failed"] == 0
    assert 100 < serving["swaps"] < summary["deployments"]
    assert summary["windows"] == sum(summary["verdicts"].values()) == 334
    assert summary["losses"]["champion"] < summary["losses"]["initial"]
    checked = run_command(
        env, "tidemill", "verify", "flights", "--recompute", "--json", timeout=1200
    )
    assert checked.returncode == 0, checked.stderr
    verified = json.loads(checked.stdout)
    assert verified["findings"] == []
    assert verified["plans"] == verified["batches"] == 335
    assert verified["candidates"] == verified["reports"] == verified["recomputed"] == 334
