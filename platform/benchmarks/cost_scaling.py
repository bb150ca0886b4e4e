"""Whether a cycle costs the same after a thousand windows as after ten.

    .venv/bin/python platform/benchmarks/cost_scaling.py [--quick] [--profile]

One model is processed window by window through the whole cycle (plan, extract, update, evaluate,
deploy, prune) on the embedded Kafka and a folder. Before each cycle the backlog is computed from
the log, as the sensor does. All windows have the same number of rows, whose label drifts so that
the gate promotes often and the ledger grows. The replay sample is full from the start.

When the model reaches its 1,000th cycle, a second one (the same model with a separate topic, store
and ledger) runs its first cycles, alternating with it: in one warm process, on one machine in one
state. Judged is process CPU: the median of the 21 cycles around the 1,000th divided by that of the
second model's 21 around its 10th, separately for continue and retrain cycles. Memory is the largest
resident size before the second model starts divided by that from the 100th to the 120th cycle, by
when the libraries have filled their pools and caches. Neither includes Kafka's process. Wall clock,
which includes Kafka and every fsync, is reported, not judged, because the machine may be shared.
"""

import cProfile
import json
import math
import random
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import psutil
from confluent_kafka import Producer
from harness import Figure, Goal, argument_parser, log, report_results

from tidemill import bootstrap
from tidemill.adapters.kafka import Cluster, create_topic, make_producer
from tidemill.core.spec import ModelSpec
from tidemill.cycle.context import ModelContext
from tidemill.cycle.operations.prune import prune
from tidemill.cycle.planning.backlog import compute_backlog
from tidemill.cycle.steps.deploy import deploy
from tidemill.cycle.steps.evaluate import evaluate
from tidemill.cycle.steps.extract import extract
from tidemill.cycle.steps.initial import initial
from tidemill.cycle.steps.update import update
from tidemill.settings import Settings
from tidemill.settings_groups import KafkaSettings, MlflowSettings

MODEL, PARTITIONS, ROWS, HISTORY_HOURS = "flat", 2, 300, 10
HOUR_MS = 3_600_000
LATE_CYCLE, CYCLES_AROUND, WARMUP_CYCLES = 1000, 10, 100
_TREES = {"num_leaves": 7, "min_data_in_leaf": 20}
SPEC = {
    "label": "bought",
    "fields": {"country": "category", "price": "number", "visits": "number", "hour": "number"},
    "windows": {"cron": "0 * * * *", "start": "2026-01-01"},
    "learner": {
        "continue": {"num_iterations": 10, "learning_rate": 0.05, **_TREES},
        "retrain": {"num_iterations": 60, "learning_rate": 0.1, **_TREES},
        "replay": {"rows": ROWS * HISTORY_HOURS, "half_life": "12h"},
    },
}
GOALS = (
    Goal("continue_cpu_ratio", at_most=1.1),
    Goal("retrain_cpu_ratio", at_most=1.1),
    Goal("memory_ratio", at_most=1.1),
)


@dataclass(frozen=True)
class CycleCost:
    """The costs of one window: seconds, and resident bytes at its end."""

    kind: str
    verdict: str
    cpu: float
    wall: float
    memory: int


def main() -> int:
    parser = argument_parser(__doc__)
    parser.add_argument("--profile", type=Path, help="write profiles of both models to this folder")
    args = parser.parse_args()
    late_cycle = CYCLES_AROUND + 2 if args.quick else LATE_CYCLE
    with TemporaryDirectory(prefix="tidemill-flat-") as scratch, _kafka(Path(scratch)) as cluster:
        with (
            _benchmark_model(cluster, Path(scratch), "old") as old,
            _benchmark_model(cluster, Path(scratch), "young") as young,
        ):
            solo_cycles = []
            for number in range(late_cycle - CYCLES_AROUND):
                solo_cycles.append(old.run_cycle())
                if number % 100 == 0:
                    log(f"cycle {number}: {solo_cycles[-1].cpu * 1000:.0f} ms of CPU")
            young.run_cycle()  # its first cycle connects
            if args.profile:
                old.profile, young.profile = cProfile.Profile(), cProfile.Profile()
            pairs = [(old.run_cycle(), young.run_cycle()) for _ in range(2 * CYCLES_AROUND + 1)]
            entries = len(old.ctx.chain().entries)
        for model in (old, young):
            if model.profile is not None:
                model.profile.dump_stats(args.profile / f"{model.name}.prof")
    figures = _figures(solo_cycles, pairs) | {"ledger_entries": entries}
    return report_results("cost_scaling", figures, GOALS, args.quick)


def _figures(
    solo_cycles: list[CycleCost], pairs: list[tuple[CycleCost, CycleCost]]
) -> dict[str, Figure]:
    old, young = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    figures: dict[str, Figure] = {"cycles": len(solo_cycles) + len(old)}
    for kind in ("continue", "retrain"):
        late, early = (median(c.cpu for c in part if c.kind == kind) for part in (old, young))
        figures |= {f"{kind}_cpu_early": early, f"{kind}_cpu_late": late}
        figures[f"{kind}_cpu_ratio"] = late / early
    for metric in ("cpu", "wall"):
        sums = [sum(getattr(c, metric) for c in part) for part in (old, young)]
        figures[f"sum_{metric}_ratio"] = sums[0] / sums[1]
    warm_cycles = (
        solo_cycles[WARMUP_CYCLES : WARMUP_CYCLES + 2 * CYCLES_AROUND + 1] or solo_cycles[-1:]
    )
    memory = [
        max(c.memory for c in part) for part in (warm_cycles, solo_cycles[-2 * CYCLES_AROUND - 1 :])
    ]
    figures |= {"memory_early_mb": memory[0] / 2**20, "memory_late_mb": memory[1] / 2**20}
    figures["memory_ratio"] = memory[1] / memory[0]
    return figures | dict(Counter(c.verdict for c in solo_cycles))


@dataclass
class BenchmarkModel:
    """The model on a separate topic, to which another hour is produced before each cycle."""

    name: str
    ctx: ModelContext
    producer: Producer
    next_hour: int = -HISTORY_HOURS
    profile: cProfile.Profile | None = None

    def produce_until(self, end_hour: int) -> None:
        """Produce the events of the windows before this one, counted from 0."""
        for number in range(self.next_hour, end_hour):
            start = self.ctx.spec.calendar.first.start + number * HOUR_MS
            for index, value in _events(number):
                timestamp_ms = start + index * HOUR_MS // ROWS
                self.producer.produce(
                    self.name, value, partition=index % PARTITIONS, timestamp=timestamp_ms
                )
        assert self.producer.flush(60) == 0
        self.next_hour = end_hour

    def run_cycle(self) -> CycleCost:
        """Run the whole cycle of the next window, after the hour that follows it was produced."""
        calendar, number = self.ctx.spec.calendar, self.next_hour - 1
        start = calendar.first.start + number * HOUR_MS
        window = calendar.containing(start)
        assert window is not None
        previous = calendar.before(window)
        self.produce_until(self.next_hour + 1)
        cpu, wall = time.process_time(), time.perf_counter()
        with self.profile or nullcontext():
            pending = compute_backlog(self.ctx, previous.key if previous else None)
            assert (pending.first, pending.last) == (window, window)
            extract(self.ctx, window)
            candidate = update(self.ctx, window)
            report = evaluate(self.ctx, window)
            deploy(self.ctx, window, final=True)
            prune(self.ctx, window)
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
        memory = psutil.Process().memory_info().rss
        return CycleCost(candidate.kind, report.verdict, cpu, wall, memory)


@contextmanager
def _kafka(home: Path) -> Iterator[Cluster]:
    settings = Settings(home=home, kafka=KafkaSettings(), mlflow=MlflowSettings(tracking_uri="off"))
    with bootstrap.kafka_cluster(settings) as cluster:
        yield cluster


@contextmanager
def _benchmark_model(cluster: Cluster, home: Path, name: str) -> Iterator[BenchmarkModel]:
    """The model with a separate topic, store and ledger, after its initial model was trained."""
    settings = Settings(
        home=home / name,
        num_threads=1,
        kafka=KafkaSettings(bootstrap_servers=cluster.servers, ledger_topic=f"{name}.ledger"),
        mlflow=MlflowSettings(tracking_uri="off"),
    )
    create_topic(cluster, name, PARTITIONS)
    spec = ModelSpec.create(MODEL, SPEC | {"topic": name})
    with bootstrap.open_model(spec, settings, exclusive=True) as ctx:
        model = BenchmarkModel(name, ctx, make_producer(cluster, {"linger.ms": 5}))
        model.produce_until(1)
        initial(ctx)
        yield model


def _events(number: int) -> Iterator[tuple[int, bytes]]:
    """The index in the hour and the bytes of each event; the label drifts in cycles of two days."""
    rng = random.Random(number)
    phase = math.sin(number * math.tau / 48)
    for index in range(ROWS):
        country, price = rng.choice(("de", "fr", "us", "jp")), round(rng.uniform(1, 100), 2)
        probability = (
            0.5 + 0.3 * phase * (1 if country in ("de", "jp") else -1) + 0.001 * (price - 50)
        )
        event = {"country": country, "price": price, "visits": rng.randrange(9)}
        payload = event | {"hour": number % 24, "bought": rng.random() < probability}
        yield index, json.dumps(payload).encode()


if __name__ == "__main__":
    sys.exit(main())
