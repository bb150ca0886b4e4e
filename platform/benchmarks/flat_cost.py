"""Whether a cycle costs the same after a thousand windows as after ten.

    .venv/bin/python platform/benchmarks/flat_cost.py [--quick] [--profile]

One model is taken window by window through the whole cycle (plan, extract, update, evaluate,
deploy, prune) over the embedded Kafka and a folder, and before each cycle the log is asked what is
due, as the sensor does. All windows hold the same number of rows, whose label drifts so that the
gate promotes often and the ledger grows. The replay sample is full from the start.

When it comes to its 1,000th cycle, a twin (the same model with a topic, a store and
a ledger of its own) takes its first ones, turn by turn with it: in one process that is warm, on one
machine in one state. Judged is process CPU: the median of the 21 cycles around the 1,000th over
that of the twin's 21 around its 10th, apart for cycles that continue and those that retrain.
Memory is the largest resident size from the 100th to the 120th cycle, before which pools and caches
of the libraries fill, against that before the twin begins. Kafka's own process is in neither. Wall
clock, with it and every fsync, is told and not judged: others use the machine.
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
from harness import Figure, Goal, arguments, finish, say

from tidemill import bootstrap
from tidemill.adapters.kafka import Cluster, create_topic, make_producer
from tidemill.core.spec import ModelSpec
from tidemill.cycle.deploy import deploy
from tidemill.cycle.due import compute_backlog
from tidemill.cycle.evaluate import evaluate
from tidemill.cycle.extract import extract
from tidemill.cycle.initial import initial
from tidemill.cycle.mill import ModelContext
from tidemill.cycle.prune import prune
from tidemill.cycle.update import update
from tidemill.settings import KafkaSettings, MlflowSettings, Settings

MODEL, PARTITIONS, ROWS, HISTORY = "flat", 2, 300, 10
HOUR = 3_600_000
LATE, AROUND, WARM = 1000, 10, 100
SPEC = {
    "label": "bought",
    "fields": {"country": "category", "price": "number", "visits": "number", "hour": "number"},
    "windows": {"cron": "0 * * * *", "start": "2026-01-01"},
    "learner": {
        "continue": {"trees": 10, "rate": 0.05, "leaves": 7, "min_rows": 20},
        "retrain": {"trees": 60, "rate": 0.1, "leaves": 7, "min_rows": 20},
        "replay": {"rows": ROWS * HISTORY, "half_life": "12h"},
    },
}
GOALS = (
    Goal("continue_cpu_ratio", at_most=1.1),
    Goal("retrain_cpu_ratio", at_most=1.1),
    Goal("memory_ratio", at_most=1.1),
)


@dataclass(frozen=True)
class Cycle:
    """What one window cost: seconds, and resident bytes at its end."""

    kind: str
    verdict: str
    cpu: float
    wall: float
    memory: int


def main() -> int:
    parser = arguments(__doc__)
    parser.add_argument("--profile", type=Path, help="a folder for profiles of both")
    told = parser.parse_args()
    late = AROUND + 2 if told.quick else LATE
    with TemporaryDirectory(prefix="tidemill-flat-") as scratch, _broker(Path(scratch)) as at:
        with _live(at, Path(scratch), "old") as old, _live(at, Path(scratch), "young") as young:
            begun = []
            for number in range(late - AROUND):
                begun.append(old.turn())
                if number % 100 == 0:
                    say(f"cycle {number}: {begun[-1].cpu * 1000:.0f} ms of CPU")
            young.turn()  # its first cycle makes connections
            if told.profile:
                old.profile, young.profile = cProfile.Profile(), cProfile.Profile()
            pairs = [(old.turn(), young.turn()) for _ in range(2 * AROUND + 1)]
            entries = len(old.mill.chain().entries)
        for live in (old, young):
            if live.profile is not None:
                live.profile.dump_stats(told.profile / f"{live.name}.prof")
    figures = _figures(begun, pairs) | {"ledger_entries": entries}
    return finish("flat_cost", figures, GOALS, told.quick)


def _figures(begun: list[Cycle], pairs: list[tuple[Cycle, Cycle]]) -> dict[str, Figure]:
    old, young = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    figures: dict[str, Figure] = {"cycles": len(begun) + len(old)}
    for kind in ("continue", "retrain"):
        at_end, early = (median(c.cpu for c in part if c.kind == kind) for part in (old, young))
        figures |= {f"{kind}_cpu_early": early, f"{kind}_cpu_late": at_end}
        figures[f"{kind}_cpu_ratio"] = at_end / early
    for what in ("cpu", "wall"):
        sums = [sum(getattr(c, what) for c in part) for part in (old, young)]
        figures[f"sum_{what}_ratio"] = sums[0] / sums[1]
    settled = begun[WARM : WARM + 2 * AROUND + 1] or begun[-1:]
    memory = [max(c.memory for c in part) for part in (settled, begun[-2 * AROUND - 1 :])]
    figures |= {"memory_early_mb": memory[0] / 2**20, "memory_late_mb": memory[1] / 2**20}
    figures["memory_ratio"] = memory[1] / memory[0]
    return figures | dict(Counter(c.verdict for c in begun))


@dataclass
class Live:
    """The model on a stream of its own, which tells an hour more before each cycle."""

    name: str
    mill: ModelContext
    stream: Producer
    told: int = -HISTORY
    profile: cProfile.Profile | None = None

    def tell(self, until: int) -> None:
        """The events of the windows before this one, counted from 0."""
        for number in range(self.told, until):
            start = self.mill.spec.calendar.first.start + number * HOUR
            for place, value in _events(number):
                moment = start + place * HOUR // ROWS
                self.stream.produce(
                    self.name, value, partition=place % PARTITIONS, timestamp=moment
                )
        assert self.stream.flush(60) == 0
        self.told = until

    def turn(self) -> Cycle:
        """The next window's whole cycle, from the moment when the hour after it has been told."""
        calendar, number = self.mill.spec.calendar, self.told - 1
        start = calendar.first.start + number * HOUR
        window = calendar.containing(start)
        assert window is not None
        before = calendar.before(window)
        self.tell(self.told + 1)
        cpu, wall = time.process_time(), time.perf_counter()
        with self.profile or nullcontext():
            found = compute_backlog(self.mill, before.key if before else None)
            assert (found.first, found.last) == (window, window)
            extract(self.mill, window)
            candidate = update(self.mill, window)
            report = evaluate(self.mill, window)
            deploy(self.mill, window, final=True)
            prune(self.mill, window)
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
        memory = psutil.Process().memory_info().rss
        return Cycle(candidate.kind, report.verdict, cpu, wall, memory)


@contextmanager
def _broker(home: Path) -> Iterator[Cluster]:
    settings = Settings(home=home, kafka=KafkaSettings(), mlflow=MlflowSettings(tracking_uri="off"))
    with bootstrap.kafka_cluster(settings) as at:
        yield at


@contextmanager
def _live(at: Cluster, home: Path, name: str) -> Iterator[Live]:
    """The model with a topic, a store and a ledger of its own, and its initial model."""
    settings = Settings(
        home=home / name,
        num_threads=1,
        kafka=KafkaSettings(bootstrap_servers=at.servers, ledger_topic=f"{name}.ledger"),
        mlflow=MlflowSettings(tracking_uri="off"),
    )
    create_topic(at, name, PARTITIONS)
    spec = ModelSpec.model_validate(SPEC | {"topic": name})
    with bootstrap.open_model(MODEL, settings, spec=spec, exclusive=True) as mill:
        live = Live(name, mill, make_producer(at, {"linger.ms": 5}))
        live.tell(1)
        initial(mill)
        yield live


def _events(number: int) -> Iterator[tuple[int, bytes]]:
    """The place in the hour and the bytes of each event; what sells turns round in two days."""
    dice = random.Random(number)
    turned = math.sin(number * math.tau / 48)
    for at in range(ROWS):
        country, price = dice.choice(("de", "fr", "us", "jp")), round(dice.uniform(1, 100), 2)
        odds = 0.5 + 0.3 * turned * (1 if country in ("de", "jp") else -1) + 0.001 * (price - 50)
        event = {"country": country, "price": price, "visits": dice.randrange(9)}
        told = event | {"hour": number % 24, "bought": dice.random() < odds}
        yield at, json.dumps(told).encode()


if __name__ == "__main__":
    sys.exit(main())
