"""`tidemill simulate flights`: what a person asks for and is told."""

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


@pytest.mark.usefixtures("_at_kafka")
def test_a_range_of_new_yorks_days_is_produced_once() -> None:
    topic = f"cli-{uuid.uuid4().hex}"
    asked = ["flights", "--from", "2013-02-01", "--to", "2013-02-02", "--topic", topic, "--json"]
    told = [json.loads(CliRunner().invoke(app, asked).stdout) for _ in range(2)]
    day = [datetime(2013, 2, 1, 5, tzinfo=UTC), datetime(2013, 2, 2, 5, tzinfo=UTC)]
    due = pl.from_epoch("due", "ms").dt.replace_time_zone("UTC")
    size = events().filter(due.is_between(*day, closed="left")).height
    assert size > 800
    assert [(one["produced"], one["present"]) for one in told] == [(size, 0), (0, size)]


@pytest.mark.parametrize(
    ("option", "text"), [("--from", "yesterday"), ("--to", "2012-12-31"), ("--speed", "0")]
)
def test_a_wrong_option_is_wrong_usage_and_named(option: str, text: str) -> None:
    result = CliRunner().invoke(app, ["flights", option, text])
    assert result.exit_code == 2
    assert option in result.stderr


def test_what_was_not_produced_is_said_and_why() -> None:
    told = ProduceResult(
        "t", produced=5, already_present=3, not_producible=2, backfilled=1, last_seq={0: 9, 1: None}
    )
    assert describe(told) == [
        "5 events produced to topic t, 3 of the range there already.",
        "Of these, 1 before --from: a stream has no holes.",
        "2 events of the range lie before the topic's first and were not produced: nothing can be "
        "put in front. Name another --topic to have them.",
        "Last event of each partition: 0: 9, 1: none.",
    ]
