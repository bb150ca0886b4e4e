"""A bench for whole cycles: a model over real Kafka and a folder, and the hands that feed it."""

import hashlib
import json
import random
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic

from tidemill import bootstrap
from tidemill.core.errors import UnknownWindow
from tidemill.core.specfile import COMPONENT_TYPE
from tidemill.core.windows import Window
from tidemill.cycle.deploy import Deployment, deploy
from tidemill.cycle.evaluate import evaluate
from tidemill.cycle.extract import extract
from tidemill.cycle.initial import initial
from tidemill.cycle.mill import ModelContext
from tidemill.cycle.update import update
from tidemill.settings import Bucket, KafkaSettings, MlflowSettings, S3Settings, Settings

MINUTE = 60_000
START = 1_767_225_600_000
"""2026-01-01T00:00Z, where the first window of a bench's model begins."""

SPEC: dict[str, Any] = {
    "label": "bought",
    "fields": {"country": "category", "price": "number", "visits": "number?"},
    "windows": {"cron": "*/5 * * * *", "start": "2026-01-01", "confirm": 4},
    "learner": {
        "continue": {"trees": 3, "rate": 0.1, "leaves": 4, "min_rows": 10},
        "retrain": {"trees": 10, "rate": 0.1, "leaves": 4, "min_rows": 10},
        "retrain_every": 3,
        "replay": {"rows": 500, "half_life": "1h"},
    },
    "gate": {"min_rows": 50},
    "min_rows": 10,
}
"""A small binary model of five-minute windows."""


def named(test: str) -> str:
    """A model's name that is this test's (or fixture's) own and the same in every session: the
    rows of a replay sample follow from it, and so does what the gate says of small models."""
    return f"m{hashlib.sha256(test.encode()).hexdigest()[:12]}"


@dataclass(frozen=True)
class OnS3:
    """S3-compatible storage for stores: a server's endpoint, a file of keys, a bucket."""

    endpoint: str
    credentials: Path
    bucket: str

    def environment(self, prefix: str) -> dict[str, str]:
        """The settings of a store below this prefix."""
        return {
            "TIDEMILL_STORE": f"s3://{self.bucket}/{prefix}",
            "TIDEMILL_S3__ENDPOINT": self.endpoint,
            "TIDEMILL_S3__CREDENTIALS": str(self.credentials),
        }


@dataclass
class Bench:
    """One model in its own topic, store and folder.

    Windows are counted from 0, which is the first; window -1 is the history before it. Without
    `tracking`, MLflow's record is kept in the folder, which takes seconds to begin. With `s3` the
    store lies there.
    """

    servers: str
    home: Path
    model: str
    partitions: int = 2
    name: str = ""
    tracking: str | None = "off"
    s3: OnS3 | None = None
    timeout: float = 30
    replicas: int = 1

    @property
    def ledger(self) -> str:
        """The name of the ledger's topic."""
        return f"{self.model}{self.name}.ledger"

    def twin(self, name: str) -> "Bench":
        """The same model over the same topic, with a store and a ledger of its own."""
        other = replace(self, home=self.home / name, name=f".{name}")
        shutil.copytree(self.home / "models", other.home / "models")
        return other

    @property
    def settings(self) -> Settings:
        kafka = KafkaSettings(
            bootstrap_servers=self.servers, ledger_topic=self.ledger, timeout=self.timeout
        )
        mlflow = MlflowSettings(tracking_uri=self.tracking)
        told = {"home": self.home, "models": self.home / "models", "kafka": kafka, "mlflow": mlflow}
        if self.s3 is not None:
            told["s3"] = S3Settings(endpoint=self.s3.endpoint, credentials=self.s3.credentials)
            told["store"] = Bucket(self.s3.bucket, self._prefix)
        return Settings(**told)

    @property
    def environment(self) -> dict[str, str]:
        """The same settings for a command in a process of its own."""
        return {
            "TIDEMILL_HOME": str(self.home),
            "TIDEMILL_MODELS": str(self.home / "models"),
            "TIDEMILL_KAFKA__BOOTSTRAP_SERVERS": self.servers,
            "TIDEMILL_KAFKA__LEDGER_TOPIC": self.ledger,
            "TIDEMILL_KAFKA__TIMEOUT": str(self.timeout),
            **({"TIDEMILL_MLFLOW__TRACKING_URI": self.tracking} if self.tracking else {}),
            **({} if self.s3 is None else self.s3.environment(self._prefix)),
        }

    @property
    def _prefix(self) -> str:
        """Where in its bucket the store lies, if it does."""
        return f"of/{self.model}{self.name}"

    def define(self, **changes: Any) -> None:
        """Write the model's defs.yaml: `SPEC` with these attributes instead."""
        folder = self.home / "models" / self.model
        folder.mkdir(parents=True, exist_ok=True)
        attributes = {"topic": self.model, **SPEC, **changes}
        text = yaml.safe_dump({"type": COMPONENT_TYPE, "attributes": attributes}, sort_keys=False)
        (folder / "defs.yaml").write_text(text)

    def create_topic(self, **config: str) -> None:
        admin = AdminClient({"bootstrap.servers": self.servers})
        wanted = {"retention.ms": "-1", "max.message.bytes": "4000000", **config}
        topic = NewTopic(self.model, self.partitions, self.replicas, config=wanted)
        for made in admin.create_topics([topic]).values():
            made.result(30)

    def delete_topic(self) -> None:
        admin = AdminClient({"bootstrap.servers": self.servers})
        for gone in admin.delete_topics([self.model]).values():
            gone.result(30)

    def put(
        self, partition: int, records: Sequence[tuple[int, bytes | None]], key: bytes | None = None
    ) -> None:
        """Append (timestamp, value) records to one partition, in this order, all with this key."""
        producer = Producer(
            {
                "bootstrap.servers": self.servers,
                "enable.idempotence": True,  # else a batch sent again may come behind a later one
                "linger.ms": 0,
                "message.max.bytes": 4_000_000,
            }
        )
        for timestamp, value in records:
            producer.produce(self.model, value, key, partition, timestamp=timestamp)
            producer.poll(0)
        assert producer.flush(30) == 0

    def feed(self, first: int, last: int, rows: int = 200, seed: int = 0) -> None:
        """Events of the windows `first` to `last`, both inclusive, `rows` in each, spread over
        the partitions and in the order of time."""
        for partition in range(self.partitions):
            self.put(
                partition,
                [
                    record
                    for number in range(first, last + 1)
                    for record in events(number, rows, seed)[partition :: self.partitions]
                ],
            )

    @contextmanager
    def mill(self, by: str = "tidemill") -> Iterator[ModelContext]:
        with bootstrap.open_model(self.model, self.settings, by=by) as mill:
            yield mill

    def window(self, number: int) -> Window:
        return window(self.spec_of(), number)

    def spec_of(self) -> Any:
        return bootstrap.load_spec(self.model, self.settings)


def window(spec: Any, number: int) -> Window:
    """The window with this number, from 0."""
    found: Window = spec.calendar.first
    if number < 0:
        raise UnknownWindow(f"There is no window {number}.", "Count from 0.")
    for _ in range(number):
        found = spec.calendar.after(found)
    return found


def events(number: int, rows: int = 200, seed: int = 0) -> list[tuple[int, bytes]]:
    """(timestamp, value) of a window's events in the order of time; a learnable label."""
    dice = random.Random(f"{number}/{seed}")
    made = []
    for at in range(rows):
        timestamp = START + number * 5 * MINUTE + at * 5 * MINUTE // rows
        country, price = dice.choice(["de", "fr", "us", "jp"]), round(dice.uniform(1, 100), 2)
        odds = 0.15 + 0.5 * (country in ("de", "jp")) + 0.003 * price
        event = {"country": country, "price": price, "visits": dice.randrange(9)}
        made.append((timestamp, json.dumps(event | {"bought": dice.random() < odds}).encode()))
    return made


def turn(mill: ModelContext, number: int, final: bool = True) -> Deployment:
    """Take one window through the four steps."""
    at = window(mill.spec, number)
    extract(mill, at)
    update(mill, at)
    evaluate(mill, at)
    return deploy(mill, at, final)


def run(mill: ModelContext, first: int, last: int) -> None:
    """The initial model and the windows `first` to `last`, each deployed."""
    initial(mill)
    for number in range(first, last + 1):
        turn(mill, number)
