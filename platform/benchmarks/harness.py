"""What the benchmarks share: goals and whether they hold, CPU seconds, progress, the JSON line."""

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
    """A figure and the bound it must keep, the bound included."""

    figure: str
    at_most: float | None = None
    at_least: float | None = None

    def holds(self, figures: Mapping[str, Figure]) -> bool:
        """False where the figure is missing, too: what was not measured is not reached."""
        value = figures.get(self.figure)
        if not isinstance(value, int | float):
            return False
        below_max = self.at_most is None or value <= self.at_most
        return below_max and (self.at_least is None or value >= self.at_least)

    def told(self) -> dict[str, float]:
        bounds = {"at_most": self.at_most, "at_least": self.at_least}
        return {name: bound for name, bound in bounds.items() if bound is not None}


@dataclass
class CpuTimer:
    """CPU seconds of this process, all threads, system time included, summed over `with` blocks.

    What a child process burns is not in it.
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
    """A benchmark's arguments: `--quick`, and what the caller adds."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument(
        "--quick", action="store_true", help="a small run that only shows that it runs: no goals"
    )
    return parser


def log(text: str) -> None:
    """A line for people, on stderr, with the seconds since the benchmark began."""
    print(f"{time.monotonic() - _STARTED_AT:7.1f} s  {text}", file=sys.stderr, flush=True)


def report_results(
    name: str, figures: Mapping[str, Figure], goals: tuple[Goal, ...], quick: bool = False
) -> int:
    """Tell the goals to people and all of it as the last line, in JSON; the exit code.

    Figures are rounded to six digits after the point where they are told, not where they are
    judged. A quick run has no goals to hold, and says so in the line.
    """
    judged_goals = () if quick else goals
    missed = [goal.figure for goal in judged_goals if not goal.holds(figures)]
    for goal in judged_goals:
        verdict = "MISSED" if goal.figure in missed else "holds"
        log(f"{verdict:6}  {goal.figure} = {figures.get(goal.figure)} {goal.told()}")
    line = {
        "benchmark": name,
        "figures": {k: round(v, 6) if isinstance(v, float) else v for k, v in figures.items()},
        "goals": {goal.figure: goal.told() for goal in judged_goals},
        "holds": not missed,
    }
    print(json.dumps(line | {"quick": True} if quick else line), flush=True)
    return 1 if missed else 0
