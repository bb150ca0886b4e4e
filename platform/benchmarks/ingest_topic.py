"""One topic of the benchmark `ingest.py`, and the methods that read it."""

import cProfile
import json
import os
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import polars as pl
from confluent_kafka import Consumer, Message, TopicPartition

from tidemill.adapters.files import FileStore
from tidemill.adapters.kafka.reader import MAX_BATCH_RECORDS
from tidemill.core.decoding import Decoder
from tidemill.core.plans import Plan
from tidemill.cycle.context import ModelContext
from tidemill.cycle.repository import ModelRepository
from tidemill.cycle.steps.extract import extract

BATCH_SIZE = 10_000


@dataclass
class BenchmarkTopic:
    """One topic, the plan of its only window, and the methods that read it."""

    ctx: ModelContext
    plan: Plan
    home: Path
    default_consumer: Consumer
    tuned_consumer: Consumer
    run_numbers: Iterator[int] = field(default_factory=count)
    store_root: Path | None = None

    def extract(self, profile: cProfile.Profile | None = None) -> None:
        store = FileStore(self.home / f"store-{next(self.run_numbers)}")
        repository = ModelRepository(store, self.ctx.model)
        repository.commit_plan(self.plan)
        with profile or nullcontext():
            extract(self.ctx.with_repository(repository), self.ctx.spec.calendar.first)
        self.store_root = store.root

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
        """The messages of the planned range, in which every offset is a record."""
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
        """Whether the last `extract` and the last `loop` wrote the same rows."""
        repository = ModelRepository(FileStore(self.store_root), self.ctx.model)
        manifest = repository.manifest(self.plan.window)
        extracted = self.ctx.with_repository(repository).load_rows(manifest)
        return extracted.equals(pl.read_parquet(self.home / "loop.parquet"))
