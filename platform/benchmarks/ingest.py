"""How fast a range of offsets becomes a committed batch.

    .venv/bin/python platform/benchmarks/ingest.py [--quick] [--profile FILE]

The topic holds the flights of 2013 as the flights stream tells them (key, headers, JSON, lz4), each
twice, in four partitions of the embedded Kafka. One window is the whole of it, and its plan is made
beforehand. In every round, one after the other:

* `extract`: the real step on the planned window, into an empty store: topic checked, offsets read
  with `read_committed`, messages decoded, Parquet and manifest written, fsynced and committed.
* `drain`: the same range through a consumer with librdkafka's own settings and `read_committed`,
  in batches of 10,000; errors are looked for and bytes counted.
* `tuned`: the same drain with the fetch settings and the batches of tidemill's own reader. Told and
  not judged: librdkafka's own settings let it rest for a second whenever its queue is full.
* `loop`: the same range, and the same rows at the end, as one would write it down: the drain, for
  each message `json.loads` and an append to each column, an `except` for what is no event; then a
  frame, sorted, and a Parquet file of the same compression, fsynced.
* `bad`: `extract` on a second topic with the same records, of which 1 % are broken in seven ways.

All consumers stay connected from round to round, and the first round, in which they come to be, is
not counted. Ratios are of the two times in one round; their median over the rounds is judged. CPU
seconds are of this process, fetching threads included; the broker's are in none of them.
"""

import cProfile
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import polars as pl
from confluent_kafka import Consumer, Message, TopicPartition
from harness import Cpu, Figure, Goal, arguments, finish, say

from tidemill import bootstrap
from tidemill.adapters.files import FileStore
from tidemill.adapters.kafka import Cluster
from tidemill.adapters.kafka.reader import BULK_FETCH, MAX_BATCH_RECORDS, READER_CONFIG
from tidemill.core.decoding import Decoder
from tidemill.core.plans import Plan
from tidemill.core.spec import ModelSpec
from tidemill.cycle.context import ModelContext
from tidemill.cycle.extract import extract, load_rows
from tidemill.cycle.manual_actions import close
from tidemill.cycle.repository import ModelRepository
from tidemill.settings import KafkaSettings, MlflowSettings, Settings
from tidemill.simulation.flights import events
from tidemill.simulation.produce import produce

MODEL, REPEATS, ROUNDS = "flights", 2, 5
YEAR_MS = 366 * 86_400_000
BATCH_SIZE = 10_000
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
    """What a way of reading took, round by round: seconds, and CPU seconds."""

    wall: list[float] = field(default_factory=list)
    cpu: Cpu = field(default_factory=Cpu)

    @contextmanager
    def measure(self) -> Iterator[None]:
        started_at = time.perf_counter()
        with self.cpu.measured():
            yield
        self.wall.append(time.perf_counter() - started_at)


def main() -> int:
    parser = arguments(__doc__)
    parser.add_argument("--profile", type=Path, help="a file for a profile of all `extract`s")
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
    return finish("ingest", figures, GOALS, args.quick)


def _time_methods(methods: dict[str, Callable[[], None]], rounds: int) -> dict[str, Timings]:
    """Every way in every round, after one that is not counted."""
    for number in range(rounds + 1):
        if number < 2:
            timings = {name: Timings() for name in methods}
        for name, method in methods.items():
            with timings[name].measure():
                method()
        seconds = ", ".join(f"{name} {timing.wall[-1]:.2f} s" for name, timing in timings.items())
        say(f"round {number}: {seconds}")
    return timings


def _figures(timings: dict[str, Timings], records: int) -> dict[str, Figure]:
    figures: dict[str, Figure] = {"records": records, "rounds": len(timings["extract"].wall)}
    for name, timing in timings.items():
        figures[f"{name}_per_second"] = records / median(timing.wall)
        figures[f"{name}_cpu_per_million"] = median(timing.cpu.spells) / records * 1e6
    figures["extract_speed_of_drain"] = _ratio(timings["drain"], timings["extract"])
    figures["extract_speed_of_tuned"] = _ratio(timings["tuned"], timings["extract"])
    figures["extract_speed_of_loop"] = _ratio(timings["loop"], timings["extract"])
    figures["bad_time_of_clean"] = _ratio(timings["bad"], timings["extract"])
    return figures


def _ratio(one: Timings, other: Timings) -> float:
    return median(a / b for a, b in zip(one.wall, other.wall, strict=True))


@dataclass
class BenchmarkTopic:
    """One topic, the plan of its only window, and the ways to read it."""

    ctx: ModelContext
    plan: Plan
    home: Path
    default_consumer: Consumer
    tuned_consumer: Consumer
    run_numbers: Iterator[int] = field(default_factory=count)
    store_root: Path | None = None

    def extract(self, profile: cProfile.Profile | None = None) -> None:
        repository = ModelRepository(
            FileStore(self.home / f"store-{next(self.run_numbers)}"), MODEL
        )
        repository.commit_plan(self.plan)
        with profile or nullcontext():
            extract(self.ctx.with_repository(repository), self.ctx.spec.calendar.first)
        self.store_root = repository.store.root

    def drain(self) -> None:
        self._drain(self.default_consumer, BATCH_SIZE)

    def drain_tuned(self) -> None:
        self._drain(self.tuned_consumer, MAX_BATCH_RECORDS)

    def _drain(self, consumer: Consumer, batch_size: int) -> None:
        total_bytes = 0
        for messages in self._messages(consumer, batch_size):
            total_bytes += sum(len(m.value()) for m in messages if m.error() is None)
        assert total_bytes > 0

    def loop(self) -> None:
        spec, rejected = self.ctx.spec, []
        columns: dict[str, list[Any]] = {name: [] for name in Decoder(spec).schema}
        for messages in self._messages(self.default_consumer, BATCH_SIZE):
            for message in messages:
                try:
                    event = json.loads(message.value())
                    label = float(event[spec.label])
                except (ValueError, TypeError, KeyError):
                    rejected.append(message)
                    continue
                columns["_partition"].append(message.partition())
                columns["_offset"].append(message.offset())
                columns["_timestamp"].append(message.timestamp()[1])
                for name in spec.fields:
                    columns[name].append(event.get(name))
                columns[spec.label].append(label)
        rows = pl.DataFrame(columns, schema=Decoder(spec).schema).sort("_partition", "_offset")
        with (self.home / "loop.parquet").open("wb") as file:
            rows.write_parquet(file, compression="zstd", compression_level=3)
            file.flush()
            os.fsync(file.fileno())

    def _messages(self, consumer: Consumer, batch_size: int) -> Iterator[list[Message]]:
        """The planned range, in which every offset is a record."""
        remaining, ranges = self.plan.offset_count, self.plan.offset_ranges
        consumer.assign(
            [TopicPartition(self.plan.topic, p, start) for p, (start, _) in ranges.items()]
        )
        while remaining > 0:
            messages = consumer.consume(min(batch_size, remaining), 1.0)
            remaining -= len(messages)
            yield messages
        consumer.unassign()

    def same_rows(self) -> bool:
        """Whether the last `extract` and the last `loop` have written the same rows."""
        repository = ModelRepository(FileStore(self.store_root), MODEL)
        manifest = repository.manifest(self.plan.window)
        extracted = load_rows(self.ctx.with_repository(repository), manifest)
        return extracted.equals(pl.read_parquet(self.home / "loop.parquet"))


@contextmanager
def _prepare_topic(
    settings: Settings, cluster: Cluster, name: str, frame: pl.DataFrame
) -> Iterator[BenchmarkTopic]:
    """Produce the stream to a topic and plan all of it as the model's only window."""
    home = settings.home / name
    produce(
        frame, cluster, name, 0, sys.maxsize,
        lock_folder=home, clock=lambda: time.time_ns() // 1_000_000, sleep=time.sleep,
    )  # fmt: skip
    kafka = KafkaSettings(bootstrap_servers=cluster.servers, ledger_topic=f"{name}.ledger")
    spec = bootstrap.load_spec(MODEL, settings)
    windows = {"cron": "0 0 1 1 *", "start": "2013-01-01", "timezone": "America/New_York"}
    spec = ModelSpec.model_validate(
        spec.model_dump(by_alias=True, exclude_unset=True)
        | {"topic": name, "windows": windows, "initial": {}}
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
    with bootstrap.open_model(MODEL, topic_settings, spec=spec, exclusive=True) as ctx:
        plan = close(ctx, spec.calendar.first, "benchmark: the data end here")
        say(f"topic {name}: {plan.offset_count} records")
        yield BenchmarkTopic(ctx, plan, home, default_consumer, tuned_consumer)
    default_consumer.close()
    tuned_consumer.close()


def _load_events(limit: int | None, repeats: int) -> pl.DataFrame:
    """The flights of 2013 that landed in it, told so many times one after the other."""
    frame = events()
    frame = frame.filter(pl.col("timestamp") < 1_388_552_400_000).head(limit or frame.height)
    copies = [frame.with_columns(due=pl.col("due") + YEAR_MS * n) for n in range(repeats)]
    return pl.concat(copies).drop("seq").with_row_index("seq")


def _with_invalid_values(frame: pl.DataFrame) -> pl.DataFrame:
    """The same stream with every hundredth record broken, in one way after the other."""
    values = [value.encode() for value in frame["value"]]
    for number, index in enumerate(range(50, len(values), 100)):
        values[index] = INVALID_VALUES[number % len(INVALID_VALUES)]
    return frame.with_columns(pl.Series("value", values, dtype=pl.Binary))


def _mean_bytes(frame: pl.DataFrame) -> float:
    return float(frame["value"].str.len_bytes().mean())


if __name__ == "__main__":
    sys.exit(main())
