"""A test harness for whole cycles: one model on a real Kafka, its folder and its events."""

import hashlib
import json
import random
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from support.kafka import clients
from tidemill import bootstrap
from tidemill.core.deployment import Deployment
from tidemill.core.errors import UnknownWindow
from tidemill.core.windows import Window
from tidemill.cycle.context import ModelContext
from tidemill.cycle.steps.deploy import deploy
from tidemill.cycle.steps.evaluate import evaluate
from tidemill.cycle.steps.extract import extract
from tidemill.cycle.steps.initial import initial
from tidemill.cycle.steps.update import update
from tidemill.model_files import COMPONENT_TYPE
from tidemill.settings import Settings
from tidemill.settings_groups import Bucket, KafkaSettings, MlflowSettings, S3Settings

MINUTE = 60_000
START = 1_767_225_600_000
"""2026-01-01T00:00Z, the start of the first window of a harness's model."""

_TREES = {"learning_rate": 0.1, "num_leaves": 4, "min_data_in_leaf": 10}

SPEC: dict[str, Any] = {
    "label": "bought",
    "fields": {"country": "category", "price": "number", "visits": "number?"},
    "windows": {"cron": "*/5 * * * *", "start": "2026-01-01", "confirmation_records": 4},
    "learner": {
        "continue": {"num_iterations": 3, **_TREES},
        "retrain": {"num_iterations": 10, **_TREES},
        "retrain_every": 3,
        "replay": {"rows": 500, "half_life": "1h"},
    },
    "gate": {"min_rows": 50},
    "warn_below_rows": 10,
}
"""A small binary model with five-minute windows."""


def model_name_for(test: str) -> str:
    """A model name that is unique to this test or fixture and the same in every session.

    The rows of a replay sample depend on it, and so do the gate's verdicts on small models.
    """
    return f"m{hashlib.sha256(test.encode()).hexdigest()[:12]}"


@dataclass(frozen=True)
class S3Location:
    """S3-compatible storage for stores: an endpoint, a credentials file, a bucket."""

    endpoint: str
    credentials: Path
    bucket: str

    def env(self, prefix: str) -> dict[str, str]:
        """The settings of a store under this prefix."""
        return {
            "TIDEMILL_STORE": f"s3://{self.bucket}/{prefix}",
            "TIDEMILL_S3__ENDPOINT": self.endpoint,
            "TIDEMILL_S3__CREDENTIALS": str(self.credentials),
        }


@dataclass
class ModelHarness:
    """One model in its own topic, store and folder.

    Windows are counted from 0; window -1 is the history before the first one. If `tracking_uri`
    is None, MLflow's data is kept in the folder, which takes seconds to set up. With `s3`, the
    store is there.
    """

    bootstrap_servers: str
    home: Path
    model: str
    partitions: int = 2
    suffix: str = ""
    tracking_uri: str | None = "off"
    s3: S3Location | None = None
    timeout: float = 30
    replicas: int = 1

    @property
    def ledger(self) -> str:
        """The name of the ledger's topic."""
        return f"{self.model}{self.suffix}.ledger"

    def twin(self, suffix: str) -> "ModelHarness":
        """The same model on the same topic, with a separate store and ledger."""
        other = replace(self, home=self.home / suffix, suffix=f".{suffix}")
        shutil.copytree(self.home / "models", other.home / "models")
        return other

    @property
    def settings(self) -> Settings:
        kafka = KafkaSettings(
            bootstrap_servers=self.bootstrap_servers, ledger_topic=self.ledger, timeout=self.timeout
        )
        mlflow = MlflowSettings(tracking_uri=self.tracking_uri)
        values = {
            "home": self.home,
            "models": self.home / "models",
            "kafka": kafka,
            "mlflow": mlflow,
        }
        if self.s3 is not None:
            values["s3"] = S3Settings(endpoint=self.s3.endpoint, credentials=self.s3.credentials)
            values["store"] = Bucket(self.s3.bucket, self._prefix)
        return Settings(**values)

    @property
    def env(self) -> dict[str, str]:
        """The same settings for a command in another process."""
        return {
            "TIDEMILL_HOME": str(self.home),
            "TIDEMILL_MODELS": str(self.home / "models"),
            "TIDEMILL_KAFKA__BOOTSTRAP_SERVERS": self.bootstrap_servers,
            "TIDEMILL_KAFKA__LEDGER_TOPIC": self.ledger,
            "TIDEMILL_KAFKA__TIMEOUT": str(self.timeout),
            **({"TIDEMILL_MLFLOW__TRACKING_URI": self.tracking_uri} if self.tracking_uri else {}),
            **({} if self.s3 is None else self.s3.env(self._prefix)),
        }

    @property
    def _prefix(self) -> str:
        """The store's prefix in its bucket, if it is on S3."""
        return f"models/{self.model}{self.suffix}"

    def define(self, **changes: Any) -> None:
        """Write the model's defs.yaml: `SPEC` with these attributes replaced."""
        folder = self.home / "models" / self.model
        folder.mkdir(parents=True, exist_ok=True)
        attributes = {"topic": self.model, **SPEC, **changes}
        text = yaml.safe_dump({"type": COMPONENT_TYPE, "attributes": attributes}, sort_keys=False)
        (folder / "defs.yaml").write_text(text)

    def create_topic(self, **config: str) -> None:
        topic_config = {"max.message.bytes": "4000000", **config}
        clients.create_topic(
            self.bootstrap_servers, self.model, self.partitions, self.replicas, **topic_config
        )

    def delete_topic(self) -> None:
        clients.delete_topic(self.bootstrap_servers, self.model)

    def produce(self, partition: int, records: clients.Records, key: bytes | None = None) -> None:
        """Append (timestamp, value) records to one partition in this order, all with this key."""
        clients.append_records(self.bootstrap_servers, self.model, partition, records, key)

    def produce_windows(self, first: int, last: int, rows: int = 200, seed: int = 0) -> None:
        """Produce the events of windows `first` to `last` inclusive, `rows` per window.

        They are spread over the partitions, in chronological order.
        """
        for partition in range(self.partitions):
            self.produce(
                partition,
                [
                    record
                    for number in range(first, last + 1)
                    for record in events(number, rows, seed)[partition :: self.partitions]
                ],
            )

    @contextmanager
    def open_model(self, actor: str = "tidemill") -> Iterator[ModelContext]:
        with bootstrap.open_model(self.load_spec(), self.settings, actor=actor) as ctx:
            yield ctx

    def window(self, number: int) -> Window:
        return window(self.load_spec(), number)

    def load_spec(self) -> Any:
        return bootstrap.load_spec(self.model, self.settings)


def window(spec: Any, number: int) -> Window:
    """The window with this number, counted from 0."""
    current: Window = spec.calendar.first
    if number < 0:
        raise UnknownWindow(f"There is no window {number}.", "Count from 0.")
    for _ in range(number):
        current = spec.calendar.after(current)
    return current


def events(number: int, rows: int = 200, seed: int = 0) -> list[tuple[int, bytes]]:
    """(timestamp, value) of a window's events in chronological order, with a learnable label."""
    rng = random.Random(f"{number}/{seed}")
    records = []
    for index in range(rows):
        timestamp = START + number * 5 * MINUTE + index * 5 * MINUTE // rows
        country, price = rng.choice(["de", "fr", "us", "jp"]), round(rng.uniform(1, 100), 2)
        probability = 0.15 + 0.5 * (country in ("de", "jp")) + 0.003 * price
        event = {"country": country, "price": price, "visits": rng.randrange(9)}
        records.append(
            (timestamp, json.dumps(event | {"bought": rng.random() < probability}).encode())
        )
    return records


def run_window(ctx: ModelContext, number: int, final: bool = True) -> Deployment:
    """Run one window through the four steps."""
    current = window(ctx.spec, number)
    extract(ctx, current)
    update(ctx, current)
    evaluate(ctx, current)
    return deploy(ctx, current, final)


def run_windows(ctx: ModelContext, first: int, last: int) -> None:
    """Run the initial model and the windows `first` to `last`, each with its deploy step."""
    initial(ctx)
    for number in range(first, last + 1):
        run_window(ctx, number)
