"""What Dagster, MLflow, Kafka and the store cost on top of LightGBM, and on top of Dagster.

    .venv/bin/python platform/benchmarks/overhead.py [--quick] [--profile FILE]

The packaged flights model, with no settings but a folder, on the embedded Kafka.

* `whole`: 300 daily windows (some 900 rows each) by the very function behind `tidemill backfill`:
  Dagster on its persistent SQLite instance, MLflow's record in its SQLite database, each message
  read from Kafka, each file fsynced, each model that is deployed proven.
* `bare`: the same LightGBM work, and nothing else: both fits of each window on the same rows, two
  at the same time as `update` does it, retrainings on the same samples, the same models scored on
  the same rows. Its rows lie decoded in memory, its models as boosters. The two take turns, a
  hundred windows each, after a week that is not counted.
* `whole_wall_of_bare_cpu` is told and not judged: the bare loop's CPU seconds are what it would
  take one fit after the other, on one thread.
* `backfill`: the command `tidemill backfill` on one more window, as a process. `launch`: the
  command `dg launch` on an asset that does nothing and stores the same events (four
  materializations, five check evaluations, an observation) in an instance of the same
  configuration. They take turns; the median of the ratios is judged. CPU seconds are of the
  process and its children.
"""

import cProfile
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from bare_loop import Loop
from flights_year import MODEL
from harness import Figure, Goal, arguments, finish, say

from tidemill import bootstrap
from tidemill.cli.backfill import run_backfill
from tidemill.cli.stream import produce_flights
from tidemill.core.spec import ModelSpec
from tidemill.core.windows import Window
from tidemill.deployed import packaged_file
from tidemill.settings import KafkaSettings, MlflowSettings, Settings

WARM, BLOCKS, BLOCK, COMMANDS = 7, 3, 100, 3
GOALS = (Goal("whole_of_bare", at_most=2.0), Goal("backfill_of_launch", at_most=1.0))
_BIN = Path(sys.executable).parent


@dataclass
class Seconds:
    """Wall clock and CPU of this process, or of its children, summed over `with` blocks."""

    wall: float = 0.0
    cpu: float = 0.0

    @contextmanager
    def measured(self, of_children: bool = False) -> Iterator[None]:
        wall, cpu = time.perf_counter(), _cpu(of_children)
        yield
        self.wall += time.perf_counter() - wall
        self.cpu += _cpu(of_children) - cpu


def _cpu(of_children: bool) -> float:
    told = resource.getrusage(resource.RUSAGE_CHILDREN if of_children else resource.RUSAGE_SELF)
    return told.ru_utime + told.ru_stime


@dataclass
class Course:
    """The windows of the model, taken from the first on."""

    settings: Settings
    spec: ModelSpec
    next: Window = field(init=False)

    def __post_init__(self) -> None:
        self.next = self.spec.calendar.first

    def take(self, count: int) -> list[Window]:
        taken = [self.next]
        while len(taken) < count:
            taken.append(self.spec.calendar.after(taken[-1]))
        self.next = self.spec.calendar.after(taken[-1])
        return taken

    def run(self, windows: Sequence[Window]) -> None:
        run_backfill(self.settings, MODEL, self.spec, windows[0].key, windows[-1].key, quiet=True)


def main() -> int:
    parser = arguments(__doc__)
    parser.add_argument("--profile", type=Path, help="a file for a profile of `whole`")
    told = parser.parse_args()
    blocks, block, commands = (1, 8, 1) if told.quick else (BLOCKS, BLOCK, COMMANDS)
    with TemporaryDirectory(prefix="tidemill-overhead-") as scratch:
        settings = Settings(
            home=Path(scratch), num_threads=1, kafka=KafkaSettings(), mlflow=MlflowSettings()
        )
        os.environ["TIDEMILL_HOME"] = scratch  # the assets read the settings themselves
        os.environ["DAGSTER_HOME"] = str(settings.dagster_home)
        with bootstrap.kafka_cluster(settings):
            course = Course(settings, bootstrap.load_spec(MODEL, settings))
            windows = WARM + blocks * block + commands
            end = course.spec.calendar.first.start + (windows + 2) * 86_400_000
            say(f"{produce_flights(settings, course.spec, end).produced} flights produced")
            figures = _windows(course, blocks, block, told.profile) | _commands(course, commands)
    return finish("overhead", figures, GOALS, told.quick)


def _windows(course: Course, blocks: int, block: int, profile: Path | None) -> dict[str, Figure]:
    """The windows through everything, and through the bare loop."""
    course.run(course.take(WARM))
    whole, bare = Seconds(), Seconds()
    profiler = cProfile.Profile() if profile else None
    for _ in range(blocks):
        windows = course.take(block)
        with whole.measured(), profiler or nullcontext():
            course.run(windows)
        with bootstrap.open_model(MODEL, course.settings, spec=course.spec) as mill:
            loop = Loop(mill)
            for window in windows:
                work = loop.prepared(window)
                with bare.measured():
                    loop.turn(work)
        say(f"to {windows[-1].key}: whole {whole.wall:.1f} s, bare {bare.wall:.1f} s")
    if profiler is not None:
        profiler.dump_stats(str(profile))
    count = blocks * block
    return {
        "windows": count,
        "whole_wall_a_window": whole.wall / count,
        "whole_cpu_a_window": whole.cpu / count,
        "bare_wall_a_window": bare.wall / count,
        "bare_cpu_a_window": bare.cpu / count,
        "whole_of_bare": whole.wall / bare.wall,
        "cpu_ratio": whole.cpu / bare.cpu,
        "whole_wall_of_bare_cpu": whole.wall / bare.cpu,
    }


def _commands(course: Course, count: int) -> dict[str, Figure]:
    """One window by each command, in turns."""
    home = course.settings.home / "empty"
    home.mkdir()
    (home / "dagster.yaml").write_bytes(packaged_file("dagster.yaml").read_bytes())
    asset = Path(__file__).with_name("empty_asset.py")
    launch = ("dg", "launch", "-f", str(asset), "--assets", "*", "--partition")
    _seconds((*launch, "2013-02-01"), home)  # makes the databases
    spent: dict[str, list[Seconds]] = {"backfill": [], "launch": []}
    for window in course.take(count):
        words = ("tidemill", "backfill", MODEL, "--from", window.key, "--to", window.key)
        spent["backfill"].append(_seconds(words, course.settings.dagster_home))
        spent["launch"].append(_seconds((*launch, window.key), home))
        say(", ".join(f"{name} {told[-1].wall:.2f} s" for name, told in spent.items()))
    figures: dict[str, Figure] = {}
    for name, told in spent.items():
        figures[f"{name}_seconds"] = median(one.wall for one in told)
        figures[f"{name}_cpu_seconds"] = median(one.cpu for one in told)
    ratios = (one.wall / other.wall for one, other in zip(*spent.values(), strict=True))
    return figures | {"backfill_of_launch": median(ratios)}


def _seconds(words: Sequence[str], dagster_home: Path) -> Seconds:
    """What a command takes from start to end. Its output is shown if it fails."""
    spent = Seconds()
    with spent.measured(of_children=True):
        done = subprocess.run(
            [str(_BIN / words[0]), *words[1:]],
            env=os.environ | {"DAGSTER_HOME": str(dagster_home)},
            cwd=dagster_home,
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode:
        raise SystemExit(f"{' '.join(words)} failed:\n{done.stdout}\n{done.stderr}")
    return spent


if __name__ == "__main__":
    sys.exit(main())
