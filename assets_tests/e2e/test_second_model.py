"""Models of other shapes, with only a defs.yaml, a plain producer and the real command line."""

import json
import uuid
from math import log
from pathlib import Path
from typing import Any

import pytest

from e2e.second_model import AIR_TIME, DEPARTURES, User, air_times, departures, flights
from support.processes.commands import run_command

pytestmark = pytest.mark.faults


@pytest.fixture
def user(kafka: str, tmp_path: Path) -> User:
    return User(kafka, tmp_path, uuid.uuid4().hex[:8])


def run_json(user: User, *args: str) -> Any:
    """The JSON output of a command."""
    result = run_command(user.env, "tidemill", *args, "--json")
    assert result.returncode == 0, result.stdout + result.stderr
    return json.loads(result.stdout)


def backfill_and_inspect(user: User, model: str, first: str, last: str) -> dict[str, Any]:
    """Run every command on the windows and compare the results; returns the reports by window."""
    assert run_json(user, "validate", model) == {"models": [model], "errors": []}
    backfill_result = run_json(user, "backfill", model, "--from", first, "--to", last)
    assert set(backfill_result["windows"]) >= {first, last}
    (status,) = run_json(user, "status", model)
    history = run_json(user, "history", model)
    assert status["in_service"] == history[-1]["digest"]
    assert status["newest_window"] == last
    assert [entry["seq"] for entry in history] == list(range(len(history)))
    verified = run_json(user, "verify", model, "--recompute")
    assert verified["findings"] == []
    assert verified["recomputed"] == verified["reports"] == len(backfill_result["windows"])
    repeated = run_json(user, "backfill", model, "--from", first, "--to", last)
    assert repeated["run_id"] != backfill_result["run_id"]
    assert run_json(user, "history", model) == history
    folder = user.home / "store" / model / "reports"
    return {path.stem: json.loads(path.read_bytes()) for path in sorted(folder.iterdir())}


def test_a_multiclass_model_of_six_hour_windows_needs_only_its_defs_yaml(user: User) -> None:
    user.define("departures", DEPARTURES)
    events = departures(flights())
    user.produce(user.topic(DEPARTURES), events)
    reports = backfill_and_inspect(user, "departures", "2013-03-04T0000Z", "2013-03-05T1200Z")
    assert len(reports) == 7
    starts = [f"2013-03-0{day}T{hour}00Z" for day in (4, 5) for hour in ("00", "06", "12", "18")]
    assert list(reports) == starts[:7]
    timestamps_ms = [timestamp_ms for timestamp_ms, _, _ in events]
    start = 1_362_355_200_000
    for number, report in enumerate(reports.values()):
        window_start = start + number * 6 * 3_600_000
        window_end = window_start + 6 * 3_600_000
        # Partitions are ordered by time, so a window contains exactly the events of its hours.
        assert report["rows"] == sum(window_start <= ms < window_end for ms in timestamps_ms)
        assert (report["auc"], report["base_rate"]) == (None, None)
    large = [report for report in reports.values() if report["rows"] > 150]
    assert len(large) >= 3
    for report in large:
        assert report["losses"]["champion"] < log(3)  # the loss of equal probabilities
        assert {part["value"] for part in report["slices"]} == {"EWR", "JFK", "LGA"}


def test_a_regression_model_beside_it_shares_ledger_and_store(user: User) -> None:
    rows = flights()
    for model, attributes, events in (
        ("departures", DEPARTURES, departures(rows)),
        ("air_time", AIR_TIME, air_times(rows)),
    ):
        user.define(model, attributes)
        user.produce(user.topic(attributes), events)
    first, last = "2013-03-04T0000Z", "2013-03-05T0000Z"
    assert len(backfill_and_inspect(user, "departures", first, last)) == 5
    reports = backfill_and_inspect(user, "air_time", first, last)
    assert len(reports) == 3
    for report in reports.values():
        assert report["rows"] > 100
        assert report["losses"]["champion"] < report["losses"]["prior"] / 2
        assert report["calibration"]["bins"] == []
    assert {row["model"] for row in run_json(user, "status")} >= {"departures", "air_time"}
