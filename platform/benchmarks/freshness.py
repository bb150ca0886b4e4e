"""How fresh the model in service is: from the record that confirms a window to the new answers.

    .venv/bin/python platform/benchmarks/freshness.py [--driver airflow|sensor] [--minutes 5]
                                                      [--windows 6] [--quick]

Brings the whole platform up as `tidemill up` does, on free ports and in a scratch folder, and waits
until its model has caught up with the live flights. From then on it reads along with the topic,
asks the prediction server every 50 ms, and takes the windows as they come. The clock starts when
the record arrives that confirms the last of a window's boundaries, by the same rule as planning
has; it stops with the first answer of the model that learned from the window. Every window has a
day of flights, some 900 rows, however many minutes it lasts. The gate's policy is `always`, so that
each window has a model to wait for; all else is as `up` ships it.

Told beside it: how long after a window's end the stream confirms it, which is the stream's matter,
and the parts. `driver` and `run_start` are what Airflow or the sensor, and Dagster, need to begin
the run where it was not there already.
"""

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import requests
import yaml
from confluent_kafka import Consumer, TopicPartition
from harness import Figure, Goal, arguments, finish, say

# The platform is begun and ended by the hands of the tests.
sys.path.insert(0, str(Path(__file__).parents[2] / "assets_tests" / "support"))

from tidemill import bootstrap
from tidemill.adapters import broker
from tidemill.adapters.streams.flights import PARTITIONS
from tidemill.cli import beside
from tidemill.cli.up.model import ensure_live_model
from tidemill.core.plans import BoundarySearch
from tidemill.core.spec import ModelSpec
from tidemill.core.windows import Window
from tidemill.cycle.mill import ModelContext
from tidemill.settings import Settings
from up_hands import MODEL, Platform

GOALS = (Goal("fresh_seconds", at_most=10.0),)
ASSETS = ("kafka_batch", "candidate_model", "evaluation_report", "deployed_model")
WAIT = "wait_for_confirmation"
_ASK = 0.05
_PATIENCE = 300.0


@dataclass
class Seen:
    """When each window's last boundary was confirmed, and when each version answered first."""

    spec: ModelSpec
    first: Window
    confirmed: dict[str, float] = field(default_factory=dict)
    answered: dict[int, float] = field(default_factory=dict)
    failed: int = 0
    over: threading.Event = field(default_factory=threading.Event)

    def read_along(self, servers: str) -> None:
        """Hold each record that arrives against the rule by which boundaries are confirmed."""
        told = {"bootstrap.servers": servers, "group.id": "freshness", "fetch.wait.max.ms": 10}
        consumer = Consumer({**told, "auto.offset.reset": "earliest", "enable.auto.commit": False})
        consumer.assign([TopicPartition(self.spec.topic, p, 0) for p in range(PARTITIONS)])
        window, held = self.first, dict[int, list[tuple[int, int, float]]]()
        searches = self._searches(window)
        while not self.over.is_set():
            for record in consumer.consume(100, 0.02):
                if record.error() is None:
                    at = (record.offset(), record.timestamp()[1], time.time())
                    held.setdefault(record.partition(), []).append(at)
            while all(self._fed(searches[p], held.get(p, [])) for p in searches):
                self.confirmed[window.key] = max(held[p][0][2] for p in searches)
                window = self.spec.calendar.after(window)
                searches = self._searches(window)
        consumer.close()

    def _searches(self, window: Window) -> dict[int, BoundarySearch]:
        confirm = self.spec.windows.confirmation_records
        return {p: BoundarySearch(window.end, confirm) for p in range(PARTITIONS)}

    def _fed(self, search: BoundarySearch, held: list[tuple[int, int, float]]) -> bool:
        """Whether the boundary is confirmed; then the first that is held is what confirmed it."""
        while search.boundary is None and held:
            if not search.feed([held[0][:2]]):
                held.pop(0)
        return search.boundary is not None

    def ask(self, platform: Platform) -> None:
        """Ask for a prediction again and again, and note the version of each answer."""
        while not self.over.wait(_ASK):
            try:
                found = platform.served()
            except (AssertionError, requests.RequestException):
                self.failed += 1
            else:
                if found is not None:
                    self.answered.setdefault(found[1], time.time())


def main() -> int:
    parser = arguments(__doc__)
    parser.add_argument("--driver", choices=("airflow", "sensor"), default="airflow")
    parser.add_argument("--minutes", choices=("1", "2", "5"), default="5")
    parser.add_argument("--windows", type=int, default=6)
    told = parser.parse_args()
    minutes, count = ("1", 1) if told.quick else (told.minutes, told.windows)
    with ExitStack() as stack:
        home = Path(stack.enter_context(TemporaryDirectory(prefix="tidemill-fresh-")))
        platform = Platform(home, minutes=minutes)
        settings = Settings(home=home, up={"minutes": int(minutes)})
        spec = _always(settings)
        stack.callback(platform.call, "down")
        platform.up(*(() if told.driver == "airflow" else ("--no-airflow",)))
        say("the platform is up")
        running = broker.status(settings.kafka_data)
        assert running is not None
        mill = stack.enter_context(bootstrap.open_model(MODEL, settings, start=False))
        _caught_up(mill)
        seen = stack.enter_context(_watching(platform, spec, running.bootstrap_servers))
        parts = _measured(seen, mill, settings, count)
    figures: dict[str, Figure] = {
        "driver": told.driver,
        "minutes": int(minutes),
        "windows": len(parts),
        "fresh_seconds": median(sum(_spent(each)) for each in parts),
        "fresh_worst": max(sum(_spent(each)) for each in parts),
        "failed_requests": seen.failed,
    }
    figures |= {f"{name}_seconds": median(each[name] for each in parts) for name in parts[0]}
    return finish("freshness", figures, GOALS, told.quick)


def _spent(parts: dict[str, float]) -> list[float]:
    """The parts that lie between confirmation and answer."""
    return [seconds for name, seconds in parts.items() if name != WAIT]


def _always(settings: Settings) -> ModelSpec:
    """The model of `up`, written as its first call would, and every window deploys."""
    ensure_live_model(settings, time.time_ns() // 1_000_000)
    file = settings.up_data / "models" / MODEL / "defs.yaml"
    document = yaml.safe_load(file.read_text())
    document["attributes"]["gate"] = {"policy": "always"}
    file.write_text(yaml.safe_dump(document, sort_keys=False))
    return bootstrap.load_spec(MODEL, settings)


@contextmanager
def _watching(platform: Platform, spec: ModelSpec, servers: str) -> Iterator[Seen]:
    seen = Seen(spec, spec.calendar.first)
    for work, at in ((seen.read_along, servers), (seen.ask, platform)):
        threading.Thread(target=work, args=(at,), daemon=True).start()  # type: ignore[arg-type]
    try:
        yield seen
    finally:
        seen.over.set()


def _caught_up(mill: ModelContext) -> None:
    """Wait until the window before this moment's is deployed."""
    calendar = mill.spec.calendar
    while not _deployed(mill, before := calendar.before(_now(mill)) or calendar.first):
        time.sleep(1)
    say(f"it has caught up with window {before}")


def _measured(seen: Seen, mill: ModelContext, settings: Settings, count: int) -> list[dict[str, float]]:
    """The parts of so many windows, from this moment's on."""
    window, found = _now(mill), list[dict[str, float]]()
    for _ in range(count):
        _until(lambda at=window: _deployed(mill, at) in seen.answered, window)  # type: ignore[misc]
        found.append(_parts(seen, mill, settings, window, _deployed(mill, window)))
        say(f"window {window}: " + ", ".join(f"{k} {v:.2f}" for k, v in found[-1].items()))
        window = mill.spec.calendar.after(window)
    return found


def _now(mill: ModelContext) -> Window:
    """The window of this moment."""
    return mill.spec.calendar.containing(int(time.time() * 1000)) or mill.spec.calendar.first


def _deployed(mill: ModelContext, window: Window) -> int:
    """The version that came of the window, 0 while there is none."""
    standing = mill.chain().entries
    return next((s.entry.seq for s in standing if s.entry.as_of == window.key), 0)


def _until(answered: Callable[[], bool], window: Window) -> None:
    until = window.end / 1000 + _PATIENCE
    while not answered():
        assert time.time() < until, f"window {window} has no answer"
        time.sleep(1)


def _parts(
    seen: Seen, mill: ModelContext, settings: Settings, window: Window, version: int
) -> dict[str, float]:
    """What came one after the other, in seconds; each begins where the one before ended."""
    before = seen.confirmed[window.key]
    created, started, made = _dagster(settings, window)
    moments = {
        "driver": created,
        "run_start": started,
        "extract": made["kafka_batch"],
        "update": made["candidate_model"],
        "evaluate": made["evaluation_report"],
        "deploy": beside.ledger_appends(mill, settings.kafka.ledger_topic)[version].appended_at,
        "swap": seen.answered[version],
    }
    parts = {WAIT: before - window.end / 1000}
    for name, moment in moments.items():
        parts[name] = max(0.0, moment - before)
        before = max(before, moment)
    return parts


def _dagster(settings: Settings, window: Window) -> tuple[float, float, dict[str, float]]:
    """When the window's run was created, when it began, when each of its assets was made."""
    import dagster as dg

    made, run = {}, ""
    with dg.DagsterInstance.from_config(str(settings.dagster_home)) as instance:
        for asset in ASSETS:
            wanted = dg.AssetRecordsFilter(
                dg.AssetKey([MODEL, asset]), asset_partitions=[window.key]
            )
            records = instance.fetch_materializations(wanted, limit=1).records
            if records:
                made[asset], run = records[0].timestamp, records[0].run_id
        (record,) = instance.get_run_records(dg.RunsFilter(run_ids=[run]))
    return record.create_timestamp.timestamp(), record.start_time or 0.0, made


if __name__ == "__main__":
    sys.exit(main())
