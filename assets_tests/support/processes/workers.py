"""Processes that run windows through the steps and can be killed, stopped and resumed.

Each is a real process, forked from a server that has only imported modules: that takes 50 ms
instead of 2 s.
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
from support.models.harness import ModelHarness, run_windows, window
from support.processes.commands import wait_until
from tidemill import bootstrap, failpoints
from tidemill.core.errors import WindowOpen
from tidemill.cycle.context import ModelContext
from tidemill.cycle.steps.extract import extract
from tidemill.settings import Settings

_TIMEOUT_SECONDS = 120.0
_FORK_CONTEXT = multiprocessing.get_context("forkserver")
_FORK_CONTEXT.set_forkserver_preload([__name__, "lightgbm", "tidemill.adapters.kafka"])

KILLED = -signal.SIGKILL


def run_all(ctx: ModelContext, last: int) -> None:
    """Run the initial model and the windows up to `last`, and try the next one, which is open."""
    run_windows(ctx, 0, last)
    with suppress(WindowOpen):
        extract(ctx, window(ctx.spec, last + 1))


def run_killed_at(harness: ModelHarness, last: int, failpoint: str) -> None:
    """Run to window `last` in a process that is killed when it first reaches this failpoint."""
    assert exit_code(harness, last, f"{failpoint}:kill") == KILLED


def run_to_end(harness: ModelHarness, last: int) -> None:
    """Run to window `last` in an undisturbed process."""
    assert exit_code(harness, last) == 0, failure_output(harness)


def exit_code(harness: ModelHarness, last: int, failpoint_spec: str = "") -> int | None:
    """The exit code of a process that runs to window `last`; the negative signal if killed."""
    return exit_code_of(harness, partial(run_all, last=last), failpoint_spec)


def exit_code_of(
    harness: ModelHarness, target: Callable[[ModelContext], object], failpoint_spec: str = ""
) -> int | None:
    """The exit code of a process that calls `target` with the harness's context."""
    with worker(harness, target, failpoint_spec) as process:
        process.join(_TIMEOUT_SECONDS)
        return process.exitcode


@contextmanager
def window_worker(
    harness: ModelHarness,
    last: int,
    failpoint_spec: str = "",
    exclusive: bool = True,
    actor: str = "tidemill",
) -> Iterator[BaseProcess]:
    """A process that runs to window `last`; it is killed at the end of the block."""
    with worker(harness, partial(run_all, last=last), failpoint_spec, exclusive, actor) as process:
        yield process


@contextmanager
def worker(
    harness: ModelHarness,
    target: Callable[[ModelContext], object],
    failpoint_spec: str = "",
    exclusive: bool = True,
    actor: str = "tidemill",
) -> Iterator[BaseProcess]:
    """A process that calls `target` with the harness's context; it is killed at the end."""
    env = harness.env | {"TIDEMILL_FAILPOINTS": failpoint_spec}
    _start_fork_server()
    process = _FORK_CONTEXT.Process(
        target=_run_worker, args=(env, harness.model, target, exclusive, actor)
    )
    process.start()
    # Otherwise starting the next process polls this one, too, and of two threads that poll at once
    # one does not get the exit code.
    multiprocessing.process._children.discard(process)  # type: ignore[attr-defined]
    try:
        yield process
    finally:
        process.kill()
        process.join(_TIMEOUT_SECONDS)


def _start_fork_server() -> None:
    """Start the fork server, unless it runs, with this tree's code on its path.

    Python 3.11 does not pass `sys.path` to it, and it ignores failed imports silently.
    """
    paths = (Path(__file__).parents[2], Path(tidemill.__path__[0]).parent)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(map(str, paths)))
        forkserver.ensure_running()


def wait_until_stopped(process: BaseProcess) -> None:
    """Wait until the process has stopped itself."""
    assert process.pid is not None
    wait_until(lambda: psutil.Process(process.pid).status() == psutil.STATUS_STOPPED)


def resume(process: BaseProcess) -> int | None:
    """Let a stopped process run to its end; its exit code."""
    assert process.pid is not None
    os.kill(process.pid, signal.SIGCONT)
    process.join(_TIMEOUT_SECONDS)
    return process.exitcode


def wait_for_failpoint(harness: ModelHarness, failpoint: str, times: int = 1) -> None:
    """Wait until the processes of this harness have reached a failpoint `times` times."""
    wait_until(lambda: failpoints_reached(harness).count(failpoint) >= times)


def wait_for_cpu_time(process: BaseProcess, cpu_seconds: float) -> None:
    """Wait until the process has used this much more CPU time, however busy the machine is."""
    monitored = psutil.Process(process.pid)
    cpu_at_start = monitored.cpu_times().user
    wait_until(lambda: monitored.cpu_times().user > cpu_at_start + cpu_seconds)


def failpoints_reached(harness: ModelHarness) -> list[str]:
    """The failpoints that the processes of this harness have reached, in order."""
    file = harness.home / "reached"
    return file.read_text().split() if file.exists() else []


def failure_output(harness: ModelHarness) -> str:
    """The traceback of the last process that failed."""
    file = harness.home / "failed"
    return file.read_text() if file.exists() else ""


def _run_worker(
    env: Mapping[str, str],
    model: str,
    target: Callable[[ModelContext], object],
    exclusive: bool,
    actor: str,
) -> None:
    os.environ.update(env)
    settings = Settings()
    reached_log = (settings.home / "reached").open("a", buffering=1)
    failpoints.on_reached(lambda name: print(name, file=reached_log))
    try:
        spec = bootstrap.load_spec(model, settings)
        with bootstrap.open_model(spec, settings, exclusive=exclusive, actor=actor) as ctx:
            target(ctx)
    except Exception as error:
        Path(settings.home / "failed").write_text(traceback.format_exc())
        sys.exit(f"{type(error).__name__}: {error}")


def failpoints_in(files: Iterable[Path | str]) -> set[str]:
    """Every failpoint in these files: `failpoint("…")`, and the commits of the repository."""
    trees = [ast.parse(Path(file).read_text()) for file in files]
    explicit = set(_first_string_arguments(trees, {"failpoint"}))
    commits = set(_first_string_arguments(trees, {"_put", "_put_by_digest", "_commit"}))
    found = explicit | {
        f"{record_kind}.{side}" for record_kind in commits for side in ("before", "after")
    }
    assert found, "these files have no failpoint; have they moved?"
    return found


def _first_string_arguments(trees: list[ast.Module], functions: set[str]) -> Iterator[str]:
    """The first arguments of all calls of these functions, if they are string literals."""
    calls = (node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Call))
    for call in calls:
        name = getattr(call.func, "id", None) or getattr(call.func, "attr", None)
        if name in functions and call.args and isinstance(call.args[0], ast.Constant):
            yield str(call.args[0].value)
