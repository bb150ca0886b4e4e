"""`tidemill simulate flights`: its options and its output."""

import json
import uuid
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest
from typer.testing import CliRunner

from tidemill.cli.simulate import app, describe
from tidemill.simulation.flights import events
from tidemill.simulation.produce import ProduceResult


@pytest.fixture
def _kafka_settings(kafka: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIDEMILL_HOME", str(tmp_path))
    monkeypatch.setenv("TIDEMILL_KAFKA__BOOTSTRAP_SERVERS", kafka)


@pytest.mark.usefixtures("_kafka_settings")
def test_a_range_of_new_yorks_days_is_produced_once() -> None:
    topic = f"cli-{uuid.uuid4().hex}"
    command = ["flights", "--from", "2013-02-01", "--to", "2013-02-02", "--topic", topic, "--json"]
    results = [json.loads(CliRunner().invoke(app, command).stdout) for _ in range(2)]
    day = [datetime(2013, 2, 1, 5, tzinfo=UTC), datetime(2013, 2, 2, 5, tzinfo=UTC)]
    due = pl.from_epoch("due", "ms").dt.replace_time_zone("UTC")
    size = events().filter(due.is_between(*day, closed="left")).height
    assert size > 800
    counts = [(result["produced"], result["already_present"]) for result in results]
    assert counts == [(size, 0), (0, size)]


@pytest.mark.parametrize(
    ("option", "text"), [("--from", "yesterday"), ("--to", "2012-12-31"), ("--speed", "0")]
)
def test_an_invalid_option_is_a_usage_error_that_names_it(option: str, text: str) -> None:
    result = CliRunner().invoke(app, ["flights", option, text])
    assert result.exit_code == 2
    assert option in result.stderr


def test_events_that_were_not_produced_are_reported_with_the_reason() -> None:
    result = ProduceResult(
        "t", produced=5, already_present=3, not_producible=2, backfilled=1, last_seq={0: 9, 1: None}
    )
    assert describe(result) == [
        "5 events produced to topic t, 3 events of the range were already there.",
        "Of these, 1 are before --from, because a stream has no gaps.",
        "2 events of the range are before the topic's first event and were not produced, because a "
        "topic can only be appended to. Use another --topic.",
        "Last event of each partition: 0: 9, 1: none.",
    ]
