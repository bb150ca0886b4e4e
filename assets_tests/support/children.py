"""Processes that take windows through the steps and can be killed, stopped and woken.

They are forked from a helper that has only imported: a real process each, 50 ms instead of 2 s.
"""

import ast
import multiprocessing
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from multiprocessing import forkserver
from multiprocessing.process import BaseProcess
from pathlib import Path

import psutil
import pytest

import tidemill
from bench import Bench, run, window
from commands import until
from tidemill import bootstrap, failpoints
from tidemill.core.errors import WindowOpen
from tidemill.cycle.extract import extract
from tidemill.cycle.mill import ModelContext
from tidemill.settings import Settings

_SECONDS = 120.0
_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["children", "lightgbm", "tidemill.adapters.kafka"])

KILLED = -signal.SIGKILL


def journey(mill: ModelContext, last: int) -> None:
    """The initial model, the windows up to `last`, and a look at the next, which is open."""
    run(mill, 0, last)
    with suppress(WindowOpen):
        extract(mill, window(mill.spec, last + 1))


def killed_at(bench: Bench, last: int, place: str) -> None:
    """Run to window `last` in a process that is killed where it first reaches this place."""
    assert outcome(bench, last, f"{place}:kill") == KILLED


def finished(bench: Bench, last: int) -> None:
    """Run to window `last` in a process that nothing disturbs."""
    assert outcome(bench, last) == 0, words(bench)


def outcome(bench: Bench, last: int, faults: str = "") -> int | None:
    """The exit code of such a process; minus the signal that ended it."""
    return outcome_of(bench, partial(journey, last=last), faults)


def outcome_of(bench: Bench, does: Callable[[ModelContext], object], faults: str = "") -> int | None:
    """The exit code of a process that does this with the bench's mill."""
    with working(bench, does, faults) as process:
        process.join(_SECONDS)
        return process.exitcode


@contextmanager
def child(
    bench: Bench, last: int, faults: str = "", exclusive: bool = True, by: str = "tidemill"
) -> Iterator[BaseProcess]:
    """A process at work on the windows up to `last`; nothing is left of it at the end."""
    with working(bench, partial(journey, last=last), faults, exclusive, by) as process:
        yield process


@contextmanager
def working(
    bench: Bench,
    does: Callable[[ModelContext], object],
    faults: str = "",
    exclusive: bool = True,
    by: str = "tidemill",
) -> Iterator[BaseProcess]:
    """A process that does this with the bench's mill; nothing is left of it at the end."""
    environment = bench.environment | {"TIDEMILL_FAILPOINTS": faults}
    _start_helper()
    process = _FORKS.Process(target=_work, args=(environment, bench.model, does, exclusive, by))
    process.start()
    # Else whoever starts the next one asks for this one's end, too, and of two that ask at once
    # one is told nothing.
    multiprocessing.process._children.discard(process)  # type: ignore[attr-defined]
    try:
        yield process
    finally:
        process.kill()
        process.join(_SECONDS)


def _start_helper() -> None:
    """Start it, unless it is there, so that it finds what it is to import: this tree's own code.

    Python 3.11 does not tell it of `sys.path`, and it says nothing of what it cannot import.
    """
    ours = (Path(__file__).parent, Path(tidemill.__path__[0]).parent)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(map(str, ours)))
        forkserver.ensure_running()


def stopped(process: BaseProcess) -> None:
    """Wait until the process has stopped itself."""
    assert process.pid is not None
    until(lambda: psutil.Process(process.pid).status() == psutil.STATUS_STOPPED)


def woken(process: BaseProcess) -> int | None:
    """Let a stopped process go on to its end; its exit code."""
    assert process.pid is not None
    os.kill(process.pid, signal.SIGCONT)
    process.join(_SECONDS)
    return process.exitcode


def reaches(bench: Bench, place: str, times: int = 1) -> None:
    """Wait until the processes of this bench have reached a failpoint so many times."""
    until(lambda: places(bench).count(place) >= times)


def works(process: BaseProcess, seconds: float) -> None:
    """Wait until the process has computed for so long, however busy the machine is."""
    seen = psutil.Process(process.pid)
    begun = seen.cpu_times().user
    until(lambda: seen.cpu_times().user > begun + seconds)


def places(bench: Bench) -> list[str]:
    """The failpoints that the processes of this bench have reached, in order."""
    file = bench.home / "reached"
    return file.read_text().split() if file.exists() else []


def words(bench: Bench) -> str:
    """What the last process to fail had to say."""
    file = bench.home / "failed"
    return file.read_text() if file.exists() else ""


def _work(
    environment: Mapping[str, str],
    model: str,
    does: Callable[[ModelContext], object],
    exclusive: bool,
    by: str,
) -> None:
    os.environ.update(environment)
    settings = Settings()
    reached = (settings.home / "reached").open("a", buffering=1)
    failpoints.on_reached(lambda name: print(name, file=reached))
    try:
        with bootstrap.open_model(model, settings, exclusive=exclusive, by=by) as mill:
            does(mill)
    except Exception as error:
        Path(settings.home / "failed").write_text(traceback.format_exc())
        sys.exit(f"{type(error).__name__}: {error}")


def places_in(files: Iterable[Path | str]) -> set[str]:
    """Every place in these files: `reached("…")`, and what the archive commits."""
    trees = [ast.parse(Path(file).read_text()) for file in files]
    named = set(_first_texts(trees, {"reached"}))
    commits = set(_first_texts(trees, {"_put", "_put_named", "_commit"}))
    return named | {f"{what}.{side}" for what in commits for side in ("before", "after")}


def _first_texts(trees: list[ast.Module], functions: set[str]) -> Iterator[str]:
    """The first arguments, where they are plain texts, of all calls of these functions."""
    calls = (node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Call))
    for call in calls:
        name = getattr(call.func, "id", None) or getattr(call.func, "attr", None)
        if name in functions and call.args and isinstance(call.args[0], ast.Constant):
            yield str(call.args[0].value)
