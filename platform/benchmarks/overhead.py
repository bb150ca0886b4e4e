"""The overhead of the cycle over LightGBM, and of the command `tidemill backfill` over Dagster.

    .venv/bin/python platform/benchmarks/overhead.py [--quick] [--profile FILE]

The packaged flights model, with default settings, on the embedded Kafka.

* `full_cycle`: 300 daily windows (some 900 rows each) by the function behind `tidemill backfill`:
  Dagster with a persistent SQLite instance, MLflow with a SQLite database, every message read from
  Kafka, every file fsynced, every deployed model validated.
* `baseline`: only the same LightGBM work: both fits of each window on the same rows, concurrently
  as in `update`, retrainings on the same samples, and the same models scored on the same rows. Its
  rows are decoded in memory, its models are boosters. The two alternate, a hundred windows each,
  after a week that is not counted.
* `full_cycle_wall_over_baseline_cpu` is reported, not judged: the CPU seconds of the baseline are
  what it would take with one fit after the other, on one thread.
* `backfill`: the command `tidemill backfill` on one more window, as a process. `launch`: the
  command `dg launch` on an asset that does nothing but store the same events (four
  materializations, five check evaluations, an observation) in an instance of the same
  configuration. They alternate; the median of the ratios is judged. CPU seconds are of the
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

from baseline_training import BaselineLoop
from flights_year import MODEL
from harness import Figure, Goal, argument_parser, log, report_results

from tidemill import bootstrap
from tidemill.cli.backfill import run_backfill
from tidemill.cli.simulate import produce_flights
from tidemill.core.spec import ModelSpec
from tidemill.core.windows import Window
from tidemill.packaged_files import packaged_file
from tidemill.settings import Settings
from tidemill.settings_groups import KafkaSettings, MlflowSettings

WARMUP_WINDOWS, BLOCKS, BLOCK_SIZE, COMMAND_RUNS = 7, 3, 100, 3
GOALS = (Goal("full_cycle_over_baseline", at_most=2.0), Goal("backfill_over_launch", at_most=1.0))
_BIN = Path(sys.executable).parent


@dataclass
class ResourceUsage:
    """Wall clock and CPU of this process, or of its children, summed over `with` blocks."""

    wall: float = 0.0
    cpu: float = 0.0

    @contextmanager
    def measure(self, *, of_children: bool = False) -> Iterator[None]:
        wall, cpu = time.perf_counter(), _cpu_seconds(of_children)
        yield
        self.wall += time.perf_counter() - wall
        self.cpu += _cpu_seconds(of_children) - cpu


def _cpu_seconds(of_children: bool) -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN if of_children else resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


@dataclass
class WindowCursor:
    """The windows of the model, consumed from the first one on."""

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
        run_backfill(self.settings, self.spec, windows[0].key, windows[-1].key, quiet=True)


def main() -> int:
    parser = argument_parser(__doc__)
    parser.add_argument("--profile", type=Path, help="write a profile of `full_cycle` to this file")
    args = parser.parse_args()
    blocks, block_size, command_runs = (
        (1, 8, 1) if args.quick else (BLOCKS, BLOCK_SIZE, COMMAND_RUNS)
    )
    with TemporaryDirectory(prefix="tidemill-overhead-") as scratch:
        settings = Settings(
            home=Path(scratch), num_threads=1, kafka=KafkaSettings(), mlflow=MlflowSettings()
        )
        os.environ["TIDEMILL_HOME"] = scratch  # the commands load the settings from the environment
        os.environ["DAGSTER_HOME"] = str(settings.dagster_home)
        with bootstrap.kafka_cluster(settings):
            cursor = WindowCursor(settings, bootstrap.load_spec(MODEL, settings))
            windows = WARMUP_WINDOWS + blocks * block_size + command_runs
            end_ms = cursor.spec.calendar.first.start + (windows + 2) * 86_400_000
            log(f"{produce_flights(settings, cursor.spec, end_ms).produced} flights produced")
            figures = _measure_windows(
                cursor, blocks, block_size, args.profile
            ) | _measure_commands(cursor, command_runs)
    return report_results("overhead", figures, GOALS, args.quick)


def _measure_windows(
    cursor: WindowCursor, blocks: int, block_size: int, profile: Path | None
) -> dict[str, Figure]:
    """Process the windows by the full cycle and by the baseline loop."""
    cursor.backfill(cursor.take(WARMUP_WINDOWS))
    full_cycle, baseline = ResourceUsage(), ResourceUsage()
    profiler = cProfile.Profile() if profile else None
    for _ in range(blocks):
        windows = cursor.take(block_size)
        with full_cycle.measure(), profiler or nullcontext():
            cursor.backfill(windows)
        with bootstrap.open_model(cursor.spec, cursor.settings) as ctx:
            loop = BaselineLoop(ctx)
            for window in windows:
                inputs = loop.prepare(window)
                with baseline.measure():
                    loop.train_and_score(inputs)
        log(
            f"until {windows[-1].key}: full cycle {full_cycle.wall:.1f} s, "
            f"baseline {baseline.wall:.1f} s"
        )
    if profiler is not None:
        profiler.dump_stats(str(profile))
    count = blocks * block_size
    return {
        "windows": count,
        "full_cycle_wall_per_window": full_cycle.wall / count,
        "full_cycle_cpu_per_window": full_cycle.cpu / count,
        "baseline_wall_per_window": baseline.wall / count,
        "baseline_cpu_per_window": baseline.cpu / count,
        "full_cycle_over_baseline": full_cycle.wall / baseline.wall,
        "cpu_ratio": full_cycle.cpu / baseline.cpu,
        "full_cycle_wall_over_baseline_cpu": full_cycle.wall / baseline.cpu,
    }


def _measure_commands(cursor: WindowCursor, count: int) -> dict[str, Figure]:
    """Process one window per command, alternately."""
    home = cursor.settings.home / "empty"
    home.mkdir()
    (home / "dagster.yaml").write_bytes(packaged_file("dagster.yaml").read_bytes())
    asset = Path(__file__).with_name("empty_asset.py")
    launch = ("dg", "launch", "-f", str(asset), "--assets", "*", "--partition")
    _run_command((*launch, "2013-02-01"), home)  # creates the databases
    usages: dict[str, list[ResourceUsage]] = {"backfill": [], "launch": []}
    for window in cursor.take(count):
        command = ("tidemill", "backfill", MODEL, "--from", window.key, "--to", window.key)
        usages["backfill"].append(_run_command(command, cursor.settings.dagster_home))
        usages["launch"].append(_run_command((*launch, window.key), home))
        log(", ".join(f"{name} {runs[-1].wall:.2f} s" for name, runs in usages.items()))
    figures: dict[str, Figure] = {}
    for name, runs in usages.items():
        figures[f"{name}_seconds"] = median(one.wall for one in runs)
        figures[f"{name}_cpu_seconds"] = median(one.cpu for one in runs)
    ratios = (one.wall / other.wall for one, other in zip(*usages.values(), strict=True))
    return figures | {"backfill_over_launch": median(ratios)}


def _run_command(command: Sequence[str], dagster_home: Path) -> ResourceUsage:
    """Run a command and measure it. If it fails, exit with its output."""
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
