"""Two more models as a user would add them: one defs.yaml each, and a plain Kafka producer."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import yaml

from support.kafka.clients import create_topic, make_producer
from tidemill.simulation.flights import landed_flights


def _boosting(num_iterations: int, learning_rate: float, min_data_in_leaf: int) -> dict[str, Any]:
    return {
        "num_iterations": num_iterations,
        "learning_rate": learning_rate,
        "num_leaves": 7,
        "min_data_in_leaf": min_data_in_leaf,
    }


DEPARTURES: dict[str, Any] = {
    "topic": "abfluege",
    "objective": "multiclass",
    "label": "Pünktlichkeit",
    "classes": ["früh", "on time", "spät"],
    "fields": {
        "Fluggesellschaft": "category",
        "from airport": "category",
        "à destination": "category",
        "Stunde (UTC)": "number",
        "sea miles": "number",
        "warm?": "boolean?",
    },
    "windows": {"cron": "0 */6 * * *", "start": "2013-03-04T00:00:00"},
    "learner": {
        "continue": _boosting(3, 0.05, 20),
        "retrain": _boosting(15, 0.1, 30),
        "retrain_every": 4,
        "replay": {"rows": 3000, "half_life": "7d"},
    },
    "gate": {"min_rows": 100, "min_clusters": 4, "slices": ["from airport"]},
    "max_reject_share": 0.05,
}
"""Real flights of a week in March 2013: six-hour windows, three classes, unusual field names."""

AIR_TIME: dict[str, Any] = {
    "topic": "air-time",
    "objective": "regression",
    "label": "minutes",
    "fields": {"miles": "number", "to": "category"},
    "windows": {"cron": "0 */12 * * *", "start": "2013-03-04T00:00:00"},
    "learner": {
        "continue": _boosting(3, 0.1, 10),
        "retrain": _boosting(20, 0.2, 20),
    },
}
"""The scheduled duration of those flights, in half-day windows."""


@dataclass(frozen=True)
class User:
    """A user with a Kafka and a folder of models; `suffix` makes names unique."""

    bootstrap_servers: str
    home: Path
    suffix: str

    @property
    def env(self) -> dict[str, str]:
        return {
            "TIDEMILL_HOME": str(self.home),
            "TIDEMILL_MODELS": str(self.home / "models"),
            "TIDEMILL_KAFKA__BOOTSTRAP_SERVERS": self.bootstrap_servers,
            "TIDEMILL_KAFKA__LEDGER_TOPIC": f"ledger-{self.suffix}",
            "TIDEMILL_KAFKA__TIMEOUT": "30",
        }

    def topic(self, attributes: dict[str, Any]) -> str:
        return f"{attributes['topic']}-{self.suffix}"

    def define(self, model: str, attributes: dict[str, Any]) -> Path:
        """Write the model's defs.yaml."""
        file = self.home / "models" / model / "defs.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        values = {**attributes, "topic": self.topic(attributes)}
        document = {"type": "tidemill.defs.IncrementalModel", "attributes": values}
        file.write_text(yaml.safe_dump(document, sort_keys=False, allow_unicode=True))
        return file

    def produce(self, topic: str, events: list[tuple[int, str, dict[str, Any]]]) -> None:
        """Create a topic of three partitions and produce (time, key, event) to it."""
        create_topic(self.bootstrap_servers, topic, 3)
        producer = make_producer(self.bootstrap_servers)
        for timestamp, key, event in events:
            producer.produce(topic, json.dumps(event).encode(), key.encode(), timestamp=timestamp)
            producer.poll(0)
        assert producer.flush(30) == 0


def flights() -> pl.DataFrame:
    """The flights scheduled to depart from Friday to Wednesday, in that order."""
    rows = landed_flights().with_columns(timestamp=pl.col("departure").dt.epoch("ms"))
    march = pl.col("departure").dt.date().is_between(pl.date(2013, 3, 1), pl.date(2013, 3, 6))
    return rows.filter(march).sort("timestamp", "id")


def departures(rows: pl.DataFrame) -> list[tuple[int, str, dict[str, Any]]]:
    """The events of `DEPARTURES`; late flights have the class `spät`, early ones `früh`."""
    events = []
    for row in rows.iter_rows(named=True):
        early = row["hour"] < 9 and not row["late"]
        event = {
            "Fluggesellschaft": row["carrier"],
            "from airport": row["origin"],
            "à destination": row["dest"],
            "Stunde (UTC)": row["departure"].hour,
            "sea miles": row["distance"] * 0.868976,
            "warm?": None if row["temp"] is None else row["temp"] > 40,
            "Pünktlichkeit": "spät" if row["late"] else "früh" if early else "on time",
        }
        events.append((row["timestamp"], row["id"], event))
    return events


def air_times(rows: pl.DataFrame) -> list[tuple[int, str, dict[str, Any]]]:
    """The events of `AIR_TIME`."""
    return [
        (
            row["timestamp"],
            row["id"],
            {"miles": row["distance"], "to": row["dest"], "minutes": row["scheduled_minutes"]},
        )
        for row in rows.iter_rows(named=True)
    ]
