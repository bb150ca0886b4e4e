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

from platform_driver import MODEL, Platform
from tidemill import bootstrap
from tidemill.core.plans import BoundarySearch
from tidemill.core.spec import ModelSpec
from tidemill.core.windows import Window
from tidemill.cycle.context import ModelContext
from tidemill.demo import processes
from tidemill.local import broker
from tidemill.services.live_flights import ensure_live_model
from tidemill.settings import Settings
from tidemill.simulation.flights import PARTITIONS

GOALS = (Goal("fresh_seconds", at_most=10.0),)
ASSETS = ("kafka_batch", "candidate_model", "evaluation_report", "deployed_model")
CONFIRMATION_WAIT = "wait_for_confirmation"
_POLL_INTERVAL_SECONDS = 0.05
_ANSWER_TIMEOUT_SECONDS = 300.0


@dataclass
class Observations:
    """When each window's last boundary was confirmed, and when each version answered first."""

    spec: ModelSpec
    first: Window
    confirmed_at: dict[str, float] = field(default_factory=dict)
    first_answered_at: dict[int, float] = field(default_factory=dict)
    failed_requests: int = 0
    stopped: threading.Event = field(default_factory=threading.Event)

    def watch_topic(self, servers: str) -> None:
        """Hold each record that arrives against the rule by which boundaries are confirmed."""
        config = {"bootstrap.servers": servers, "group.id": "freshness", "fetch.wait.max.ms": 10}
        consumer = Consumer(
            {**config, "auto.offset.reset": "earliest", "enable.auto.commit": False}
        )
        consumer.assign([TopicPartition(self.spec.topic, p, 0) for p in range(PARTITIONS)])
        window, records = self.first, dict[int, list[tuple[int, int, float]]]()
        searches = self._searches(window)
        while not self.stopped.is_set():
            for record in consumer.consume(100, 0.02):
                if record.error() is None:
                    received = (record.offset(), record.timestamp()[1], time.time())
                    records.setdefault(record.partition(), []).append(received)
            while all(self._is_confirmed(searches[p], records.get(p, [])) for p in searches):
                self.confirmed_at[window.key] = max(records[p][0][2] for p in searches)
                window = self.spec.calendar.after(window)
                searches = self._searches(window)
        consumer.close()

    def _searches(self, window: Window) -> dict[int, BoundarySearch]:
        confirmation_records = self.spec.windows.confirmation_records
        return {p: BoundarySearch(window.end, confirmation_records) for p in range(PARTITIONS)}

    def _is_confirmed(self, search: BoundarySearch, records: list[tuple[int, int, float]]) -> bool:
        """Whether the boundary is confirmed; then the first that is held is what confirmed it."""
        while search.boundary is None and records:
            if not search.feed([records[0][:2]]):
                records.pop(0)
        return search.boundary is not None

    def poll_predictions(self, platform: Platform) -> None:
        """Ask for a prediction again and again, and note the version of each answer."""
        while not self.stopped.wait(_POLL_INTERVAL_SECONDS):
            try:
                answer = platform.served_model()
            except (AssertionError, requests.RequestException):
                self.failed_requests += 1
            else:
                if answer is not None:
                    self.first_answered_at.setdefault(answer[1], time.time())


def main() -> int:
    parser = arguments(__doc__)
    parser.add_argument("--driver", choices=("airflow", "sensor"), default="airflow")
    parser.add_argument("--minutes", choices=("1", "2", "5"), default="5")
    parser.add_argument("--windows", type=int, default=6)
    args = parser.parse_args()
    minutes, count = ("1", 1) if args.quick else (args.minutes, args.windows)
    with ExitStack() as stack:
        home = Path(stack.enter_context(TemporaryDirectory(prefix="tidemill-fresh-")))
        platform = Platform(home, window_minutes=minutes)
        settings = Settings(home=home, up={"minutes": int(minutes)})
        spec = _always_deploying_spec(settings)
        stack.callback(platform.run_cli, "down")
        platform.up(*(() if args.driver == "airflow" else ("--no-airflow",)))
        say("the platform is up")
        broker_status = broker.status(settings.kafka_data)
        assert broker_status is not None
        ctx = stack.enter_context(bootstrap.open_model(MODEL, settings, start=False))
        _wait_until_caught_up(ctx)
        observations = stack.enter_context(
            _observe(platform, spec, broker_status.bootstrap_servers)
        )
        parts = _measure(observations, ctx, settings, count)
    figures: dict[str, Figure] = {
        "driver": args.driver,
        "minutes": int(minutes),
        "windows": len(parts),
        "fresh_seconds": median(sum(_counted_parts(window_parts)) for window_parts in parts),
        "fresh_worst": max(sum(_counted_parts(window_parts)) for window_parts in parts),
        "failed_requests": observations.failed_requests,
    }
    figures |= {
        f"{name}_seconds": median(window_parts[name] for window_parts in parts) for name in parts[0]
    }
    return finish("freshness", figures, GOALS, args.quick)


def _counted_parts(parts: dict[str, float]) -> list[float]:
    """The parts that lie between confirmation and answer."""
    return [seconds for name, seconds in parts.items() if name != CONFIRMATION_WAIT]


def _always_deploying_spec(settings: Settings) -> ModelSpec:
    """The model of `up`, written as its first call would, and every window deploys."""
    ensure_live_model(settings, time.time_ns() // 1_000_000)
    file = settings.up_data / "models" / MODEL / "defs.yaml"
    document = yaml.safe_load(file.read_text())
    document["attributes"]["gate"] = {"policy": "always"}
    file.write_text(yaml.safe_dump(document, sort_keys=False))
    return bootstrap.load_spec(MODEL, settings)


@contextmanager
def _observe(platform: Platform, spec: ModelSpec, servers: str) -> Iterator[Observations]:
    observations = Observations(spec, spec.calendar.first)
    for target, argument in (
        (observations.watch_topic, servers),
        (observations.poll_predictions, platform),
    ):
        threading.Thread(target=target, args=(argument,), daemon=True).start()  # type: ignore[arg-type]
    try:
        yield observations
    finally:
        observations.stopped.set()


def _wait_until_caught_up(ctx: ModelContext) -> None:
    """Wait until the window before this moment's is deployed."""
    calendar = ctx.spec.calendar
    while not _deployed_version(
        ctx, previous := calendar.before(_current_window(ctx)) or calendar.first
    ):
        time.sleep(1)
    say(f"it has caught up with window {previous}")


def _measure(
    observations: Observations, ctx: ModelContext, settings: Settings, count: int
) -> list[dict[str, float]]:
    """The parts of so many windows, from this moment's on."""
    window, all_parts = _current_window(ctx), list[dict[str, float]]()
    for _ in range(count):
        _wait_until_answered(
            lambda at=window: _deployed_version(ctx, at) in observations.first_answered_at, window
        )  # type: ignore[misc]
        all_parts.append(
            _parts(observations, ctx, settings, window, _deployed_version(ctx, window))
        )
        say(f"window {window}: " + ", ".join(f"{k} {v:.2f}" for k, v in all_parts[-1].items()))
        window = ctx.spec.calendar.after(window)
    return all_parts


def _current_window(ctx: ModelContext) -> Window:
    """The window of this moment."""
    return ctx.spec.calendar.containing(int(time.time() * 1000)) or ctx.spec.calendar.first


def _deployed_version(ctx: ModelContext, window: Window) -> int:
    """The version that came of the window, 0 while there is none."""
    entries = ctx.chain().entries
    return next((s.entry.seq for s in entries if s.entry.as_of == window.key), 0)


def _wait_until_answered(predicate: Callable[[], bool], window: Window) -> None:
    deadline = window.end / 1000 + _ANSWER_TIMEOUT_SECONDS
    while not predicate():
        assert time.time() < deadline, f"window {window} has no answer"
        time.sleep(1)


def _parts(
    observations: Observations, ctx: ModelContext, settings: Settings, window: Window, version: int
) -> dict[str, float]:
    """What came one after the other, in seconds; each begins where the one before ended."""
    previous = observations.confirmed_at[window.key]
    created, started, materialized_at = _dagster_times(settings, window)
    timestamps = {
        "driver": created,
        "run_start": started,
        "extract": materialized_at["kafka_batch"],
        "update": materialized_at["candidate_model"],
        "evaluate": materialized_at["evaluation_report"],
        "deploy": processes.ledger_appends(ctx, settings.kafka.ledger_topic)[version].appended_at,
        "swap": observations.first_answered_at[version],
    }
    parts = {CONFIRMATION_WAIT: previous - window.end / 1000}
    for name, timestamp in timestamps.items():
        parts[name] = max(0.0, timestamp - previous)
        previous = max(previous, timestamp)
    return parts


def _dagster_times(settings: Settings, window: Window) -> tuple[float, float, dict[str, float]]:
    """When the window's run was created, when it began, when each of its assets was made."""
    import dagster as dg

    materialized_at, run = {}, ""
    with dg.DagsterInstance.from_config(str(settings.dagster_home)) as instance:
        for asset in ASSETS:
            records_filter = dg.AssetRecordsFilter(
                dg.AssetKey([MODEL, asset]), asset_partitions=[window.key]
            )
            records = instance.fetch_materializations(records_filter, limit=1).records
            if records:
                materialized_at[asset], run = records[0].timestamp, records[0].run_id
        (record,) = instance.get_run_records(dg.RunsFilter(run_ids=[run]))
    return record.create_timestamp.timestamp(), record.start_time or 0.0, materialized_at


if __name__ == "__main__":
    sys.exit(main())
