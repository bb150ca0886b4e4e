"""Shared parts of the benchmarks: goals, CPU seconds, progress and the JSON line."""

import argparse
import json
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

Figure = float | int | str | None
_STARTED_AT = time.monotonic()


@dataclass(frozen=True)
class Goal:
    """A figure and its inclusive bounds."""

    figure: str
    at_most: float | None = None
    at_least: float | None = None

    def holds(self, figures: Mapping[str, Figure]) -> bool:
        """Whether the figure is within its bounds; False if it was not measured."""
        value = figures.get(self.figure)
        if not isinstance(value, int | float):
            return False
        below_max = self.at_most is None or value <= self.at_most
        return below_max and (self.at_least is None or value >= self.at_least)

    def bounds(self) -> dict[str, float]:
        """The bounds that are set, by name."""
        limits = {"at_most": self.at_most, "at_least": self.at_least}
        return {name: limit for name, limit in limits.items() if limit is not None}


@dataclass
class CpuTimer:
    """CPU seconds of this process, all threads, system time included, summed over `with` blocks.

    Child processes are not included.
    """

    seconds: float = 0.0
    intervals: list[float] = field(default_factory=list)

    @contextmanager
    def measure(self) -> Iterator[None]:
        started_at = time.process_time()
        try:
            yield
        finally:
            self.intervals.append(time.process_time() - started_at)
            self.seconds += self.intervals[-1]


def argument_parser(description: str | None) -> argparse.ArgumentParser:
    """The argument parser of a benchmark, with `--quick`; callers may add arguments."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument(
        "--quick", action="store_true", help="only check that the benchmark runs; no goals"
    )
    return parser


def log(text: str) -> None:
    """Print a line of progress on stderr, with the seconds since the benchmark started."""
    print(f"{time.monotonic() - _STARTED_AT:7.1f} s  {text}", file=sys.stderr, flush=True)


def report_results(
    name: str, figures: Mapping[str, Figure], goals: tuple[Goal, ...], quick: bool = False
) -> int:
    """Log the goals and print everything as one line of JSON, the last one. Returns the exit code.

    Figures are rounded to six decimal places in the output, not when they are judged. A quick run
    judges no goals, which the line says.
    """
    judged_goals = () if quick else goals
    missed = [goal.figure for goal in judged_goals if not goal.holds(figures)]
    for goal in judged_goals:
        verdict = "MISSED" if goal.figure in missed else "met"
        log(f"{verdict:6}  {goal.figure} = {figures.get(goal.figure)} {goal.bounds()}")
    line = {
        "benchmark": name,
        "figures": {k: round(v, 6) if isinstance(v, float) else v for k, v in figures.items()},
        "goals": {goal.figure: goal.bounds() for goal in judged_goals},
        "holds": not missed,
    }
    print(json.dumps(line | {"quick": True} if quick else line), flush=True)
    return 1 if missed else 0
