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
from tidemill.cli.simulate import produce_flights
from tidemill.core.spec import ModelSpec
from tidemill.core.windows import Window
from tidemill.packaged_files import packaged_file
from tidemill.settings import KafkaSettings, MlflowSettings, Settings

WARMUP_WINDOWS, BLOCKS, BLOCK_SIZE, COMMAND_RUNS = 7, 3, 100, 3
GOALS = (Goal("whole_of_bare", at_most=2.0), Goal("backfill_of_launch", at_most=1.0))
_BIN = Path(sys.executable).parent


@dataclass
class ResourceUsage:
    """Wall clock and CPU of this process, or of its children, summed over `with` blocks."""

    wall: float = 0.0
    cpu: float = 0.0

    @contextmanager
    def measure(self, children: bool = False) -> Iterator[None]:
        wall, cpu = time.perf_counter(), _cpu_seconds(children)
        yield
        self.wall += time.perf_counter() - wall
        self.cpu += _cpu_seconds(children) - cpu


def _cpu_seconds(children: bool) -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN if children else resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


@dataclass
class WindowCursor:
    """The windows of the model, taken from the first on."""

    settings: Settings
    spec: ModelSpec
    next_window: Window = field(init=False)

    def __post_init__(self) -> None:
        self.next_window = self.spec.calendar.first

    def take(self, count: int) -> list[Window]:
        windows = [self.next_window]
        while len(windows) < count:
            windows.append(self.spec.calendar.after(windows[-1]))
        self.next_window = self.spec.calendar.after(windows[-1])
        return windows

    def backfill(self, windows: Sequence[Window]) -> None:
        run_backfill(self.settings, MODEL, self.spec, windows[0].key, windows[-1].key, quiet=True)


def main() -> int:
    parser = arguments(__doc__)
    parser.add_argument("--profile", type=Path, help="a file for a profile of `whole`")
    args = parser.parse_args()
    blocks, block_size, command_runs = (
        (1, 8, 1) if args.quick else (BLOCKS, BLOCK_SIZE, COMMAND_RUNS)
    )
    with TemporaryDirectory(prefix="tidemill-overhead-") as scratch:
        settings = Settings(
            home=Path(scratch), num_threads=1, kafka=KafkaSettings(), mlflow=MlflowSettings()
        )
        os.environ["TIDEMILL_HOME"] = scratch  # the assets read the settings themselves
        os.environ["DAGSTER_HOME"] = str(settings.dagster_home)
        with bootstrap.kafka_cluster(settings):
            cursor = WindowCursor(settings, bootstrap.load_spec(MODEL, settings))
            windows = WARMUP_WINDOWS + blocks * block_size + command_runs
            end_ms = cursor.spec.calendar.first.start + (windows + 2) * 86_400_000
            say(f"{produce_flights(settings, cursor.spec, end_ms).produced} flights produced")
            figures = _measure_windows(
                cursor, blocks, block_size, args.profile
            ) | _measure_commands(cursor, command_runs)
    return finish("overhead", figures, GOALS, args.quick)


def _measure_windows(
    cursor: WindowCursor, blocks: int, block_size: int, profile: Path | None
) -> dict[str, Figure]:
    """The windows through everything, and through the bare loop."""
    cursor.backfill(cursor.take(WARMUP_WINDOWS))
    full_cycle, baseline = ResourceUsage(), ResourceUsage()
    profiler = cProfile.Profile() if profile else None
    for _ in range(blocks):
        windows = cursor.take(block_size)
        with full_cycle.measure(), profiler or nullcontext():
            cursor.backfill(windows)
        with bootstrap.open_model(MODEL, cursor.settings, spec=cursor.spec) as ctx:
            loop = Loop(ctx)
            for window in windows:
                inputs = loop.prepared(window)
                with baseline.measure():
                    loop.turn(inputs)
        say(f"to {windows[-1].key}: whole {full_cycle.wall:.1f} s, bare {baseline.wall:.1f} s")
    if profiler is not None:
        profiler.dump_stats(str(profile))
    count = blocks * block_size
    return {
        "windows": count,
        "whole_wall_a_window": full_cycle.wall / count,
        "whole_cpu_a_window": full_cycle.cpu / count,
        "bare_wall_a_window": baseline.wall / count,
        "bare_cpu_a_window": baseline.cpu / count,
        "whole_of_bare": full_cycle.wall / baseline.wall,
        "cpu_ratio": full_cycle.cpu / baseline.cpu,
        "whole_wall_of_bare_cpu": full_cycle.wall / baseline.cpu,
    }


def _measure_commands(cursor: WindowCursor, count: int) -> dict[str, Figure]:
    """One window by each command, in turns."""
    home = cursor.settings.home / "empty"
    home.mkdir()
    (home / "dagster.yaml").write_bytes(packaged_file("dagster.yaml").read_bytes())
    asset = Path(__file__).with_name("empty_asset.py")
    launch = ("dg", "launch", "-f", str(asset), "--assets", "*", "--partition")
    _run_command((*launch, "2013-02-01"), home)  # makes the databases
    usages: dict[str, list[ResourceUsage]] = {"backfill": [], "launch": []}
    for window in cursor.take(count):
        command = ("tidemill", "backfill", MODEL, "--from", window.key, "--to", window.key)
        usages["backfill"].append(_run_command(command, cursor.settings.dagster_home))
        usages["launch"].append(_run_command((*launch, window.key), home))
        say(", ".join(f"{name} {runs[-1].wall:.2f} s" for name, runs in usages.items()))
    figures: dict[str, Figure] = {}
    for name, runs in usages.items():
        figures[f"{name}_seconds"] = median(one.wall for one in runs)
        figures[f"{name}_cpu_seconds"] = median(one.cpu for one in runs)
    ratios = (one.wall / other.wall for one, other in zip(*usages.values(), strict=True))
    return figures | {"backfill_of_launch": median(ratios)}


def _run_command(command: Sequence[str], dagster_home: Path) -> ResourceUsage:
    """What a command takes from start to end. Its output is shown if it fails."""
    usage = ResourceUsage()
    with usage.measure(of_children=True):
        completed = subprocess.run(
            [str(_BIN / command[0]), *command[1:]],
            env=os.environ | {"DAGSTER_HOME": str(dagster_home)},
            cwd=dagster_home,
            capture_output=True,
            text=True,
            check=False,
        )
    if completed.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{completed.stdout}\n{completed.stderr}")
    return usage


if __name__ == "__main__":
    sys.exit(main())
