"""The speed of turning a range of offsets into a committed batch.

    .venv/bin/python platform/benchmarks/ingest.py [--quick] [--profile FILE]

The topic contains the flights of 2013 as the simulation produces them (key, headers, JSON, lz4),
each twice, in four partitions of the embedded Kafka. One window covers the whole topic; its plan is
committed beforehand. Every round runs, one after the other:

* `extract`: the real step on the planned window, into an empty store: topic checked, offsets read
  with `read_committed`, messages decoded, Parquet and manifest written, fsynced and committed.
* `drain`: the same range through a consumer with librdkafka's default settings and
  `read_committed`, in batches of 10,000; errors are checked and bytes counted.
* `tuned`: the same drain with the fetch settings and batch size of tidemill's own reader. It is
  reported, not judged: with its default settings, librdkafka pauses for a second whenever its queue
  is full.
* `loop`: a straightforward loop that yields the same rows: the drain, per message `json.loads` and
  an append to each column, an `except` for invalid events; then a sorted frame and a Parquet file
  of the same compression, fsynced.
* `bad`: `extract` on a second topic with the same records, 1 % of them invalid in seven ways.

All consumers stay connected between rounds; the first round, which connects them, is not counted.
Ratios are of two times of the same round; their median over the rounds is judged. CPU seconds are
of this process, including its fetch threads, without the broker.
"""

import cProfile
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import polars as pl
from confluent_kafka import Consumer
from harness import CpuTimer, Figure, Goal, argument_parser, log, report_results
from ingest_topic import BenchmarkTopic

from tidemill import bootstrap
from tidemill.adapters.kafka import Cluster
from tidemill.adapters.kafka.reader import BULK_FETCH, READER_CONFIG
from tidemill.core.spec import ModelSpec
from tidemill.cycle.operations.manual_actions import close
from tidemill.settings import Settings
from tidemill.settings_groups import KafkaSettings, MlflowSettings
from tidemill.simulation.flights import events
from tidemill.simulation.produce import produce

MODEL, REPEATS, ROUNDS = "flights", 2, 5
YEAR_MS = 366 * 86_400_000
INVALID_VALUES = (
    None,
    b"",
    b'{"late":',
    b'{"late":true,"distance":NaN}',
    b'{"late":true,"distance":"far"}',
    b'{"late":true,"carrier":"\xff"}',
    b'{"late":2}',
)
GOALS = (
    Goal("extract_speed_of_drain", at_least=0.5),
    Goal("extract_speed_of_loop", at_least=2.5),
    Goal("bad_time_of_clean", at_most=2.0),
)


@dataclass
class Timings:
    """The wall clock and CPU seconds of one method, per round."""

    wall: list[float] = field(default_factory=list)
    cpu: CpuTimer = field(default_factory=CpuTimer)

    @contextmanager
    def measure(self) -> Iterator[None]:
        started_at = time.perf_counter()
        with self.cpu.measure():
            yield
        self.wall.append(time.perf_counter() - started_at)


def main() -> int:
    parser = argument_parser(__doc__)
    parser.add_argument(
        "--profile", type=Path, help="write a profile of all `extract` runs to this file"
    )
    args = parser.parse_args()
    profile = cProfile.Profile() if args.profile else None
    with TemporaryDirectory(prefix="tidemill-ingest-") as scratch, ExitStack() as stack:
        home, rounds = Path(scratch), 1 if args.quick else ROUNDS
        settings = Settings(
            home=home, kafka=KafkaSettings(), mlflow=MlflowSettings(tracking_uri="off")
        )
        cluster = stack.enter_context(bootstrap.kafka_cluster(settings))
        frame = _load_events(20_000 if args.quick else None, 1 if args.quick else REPEATS)
        clean = stack.enter_context(_prepare_topic(settings, cluster, "clean", frame))
        bad = stack.enter_context(
            _prepare_topic(settings, cluster, "bad", _with_invalid_values(frame))
        )
        methods = {
            "extract": lambda: clean.extract(profile),
            "drain": clean.drain,
            "tuned": clean.drain_tuned,
            "loop": clean.loop,
            "bad": bad.extract,
        }
        timings = _time_methods(methods, rounds)
        assert clean.same_rows()
        figures = _figures(timings, clean.plan.offset_count) | {"bytes": _mean_bytes(frame)}
    if profile is not None:
        profile.dump_stats(args.profile)
    return report_results("ingest", figures, GOALS, args.quick)


def _time_methods(methods: dict[str, Callable[[], None]], rounds: int) -> dict[str, Timings]:
    """Run every method in every round, after one round that is not counted."""
    for number in range(rounds + 1):
        if number < 2:
            timings = {name: Timings() for name in methods}
        for name, method in methods.items():
            with timings[name].measure():
                method()
        seconds = ", ".join(f"{name} {timing.wall[-1]:.2f} s" for name, timing in timings.items())
        log(f"round {number}: {seconds}")
    return timings


def _figures(timings: dict[str, Timings], records: int) -> dict[str, Figure]:
    figures: dict[str, Figure] = {"records": records, "rounds": len(timings["extract"].wall)}
    for name, timing in timings.items():
        figures[f"{name}_per_second"] = records / median(timing.wall)
        figures[f"{name}_cpu_per_million"] = median(timing.cpu.intervals) / records * 1e6
    figures["extract_speed_of_drain"] = _ratio(timings["drain"], timings["extract"])
    figures["extract_speed_of_tuned"] = _ratio(timings["tuned"], timings["extract"])
    figures["extract_speed_of_loop"] = _ratio(timings["loop"], timings["extract"])
    figures["bad_time_of_clean"] = _ratio(timings["bad"], timings["extract"])
    return figures


def _ratio(one: Timings, other: Timings) -> float:
    return median(a / b for a, b in zip(one.wall, other.wall, strict=True))


@contextmanager
def _prepare_topic(
    settings: Settings, cluster: Cluster, name: str, frame: pl.DataFrame
) -> Iterator[BenchmarkTopic]:
    """Produce the events to a topic and plan all of it as the model's only window."""
    home = settings.home / name
    produce(
        frame, cluster, name, 0, sys.maxsize,
        lock_folder=home, clock=lambda: time.time_ns() // 1_000_000, sleep=time.sleep,
    )  # fmt: skip
    kafka = KafkaSettings(bootstrap_servers=cluster.servers, ledger_topic=f"{name}.ledger")
    spec = bootstrap.load_spec(MODEL, settings)
    windows = {"cron": "0 0 1 1 *", "start": "2013-01-01", "timezone": "America/New_York"}
    spec = ModelSpec.create(
        MODEL,
        spec.model_dump(by_alias=True, exclude_unset=True)
        | {"topic": name, "windows": windows, "initial": {}},
    )
    topic_settings = settings.model_copy(update={"home": home, "kafka": kafka})
    consumer_config = {
        "group.id": "drain",
        "isolation.level": "read_committed",
        "auto.offset.reset": "error",
    }
    default_consumer = Consumer(cluster.client_config(consumer_config))
    tuned_consumer = Consumer(
        cluster.client_config(READER_CONFIG | BULK_FETCH | {"enable.partition.eof": False})
    )
    with bootstrap.open_model(spec, topic_settings, exclusive=True) as ctx:
        plan = close(ctx, spec.calendar.first, "benchmark: end of the data")
        log(f"topic {name}: {plan.offset_count} records")
        yield BenchmarkTopic(ctx, plan, home, default_consumer, tuned_consumer)
    default_consumer.close()
    tuned_consumer.close()


def _load_events(limit: int | None, repeats: int) -> pl.DataFrame:
    """The flights that landed in 2013, as so many copies one after the other."""
    frame = events()
    frame = frame.filter(pl.col("timestamp") < 1_388_552_400_000).head(limit or frame.height)
    copies = [frame.with_columns(due=pl.col("due") + YEAR_MS * n) for n in range(repeats)]
    return pl.concat(copies).drop("seq").with_row_index("seq")


def _with_invalid_values(frame: pl.DataFrame) -> pl.DataFrame:
    """The same events with every hundredth value replaced by one of `INVALID_VALUES` in turn."""
    values = [value.encode() for value in frame["value"]]
    for number, index in enumerate(range(50, len(values), 100)):
        values[index] = INVALID_VALUES[number % len(INVALID_VALUES)]
    return frame.with_columns(pl.Series("value", values, dtype=pl.Binary))


def _mean_bytes(frame: pl.DataFrame) -> float:
    return float(frame["value"].str.len_bytes().mean())


if __name__ == "__main__":
    sys.exit(main())
