"""Commands in processes of their own, and what they leave behind."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import psutil

_BIN = Path(sys.executable).parent
_OWN_PREFIXES = ("TIDEMILL_", "DAGSTER_")


def clean_env(env: Mapping[str, str]) -> dict[str, str]:
    """This process's environment with these settings, and none of tidemill's or Dagster's own."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(_OWN_PREFIXES)}
    return {**inherited, "NO_COLOR": "1", "COLUMNS": "200", **env}


def run_command(
    env: Mapping[str, str], *command: str, timeout: float = 300
) -> "subprocess.CompletedProcess[str]":
    """Run a command of the environment to its end; its output as text."""
    return subprocess.run(
        [str(_BIN / command[0]), *command[1:]],
        cwd=env["TIDEMILL_HOME"],
        env=clean_env(env),
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


@contextmanager
def background(
    env: Mapping[str, str], *command: str, cwd: Path | None = None, name: str = "said"
) -> "Iterator[subprocess.Popen[bytes]]":
    """A command under way, in a session of its own; its output is told by `said`.

    If it still runs at the end, it and its children are killed.
    """
    home = Path(env["TIDEMILL_HOME"])
    with (home / f"{name}.txt").open("wb") as log_file:
        process = subprocess.Popen(
            [str(_BIN / command[0]), *command[1:]],
            cwd=cwd or home,
            env=clean_env(env),
            stdin=subprocess.DEVNULL,
            stdout=log_file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            process_tree = [*psutil.Process(process.pid).children(recursive=True), process]
            for member in process_tree:
                member.kill()
        process.wait(30)


def output(env: Mapping[str, str], name: str = "said") -> str:
    """What a command that was begun has said so far."""
    return (Path(env["TIDEMILL_HOME"]) / f"{name}.txt").read_text(errors="replace")


def interrupt(process: "subprocess.Popen[bytes]", timeout: float = 60) -> int:
    """Ctrl-C: SIGINT to the whole foreground group, as a terminal sends it; the exit code."""
    os.killpg(process.pid, signal.SIGINT)
    return process.wait(timeout)


def wait_until(
    predicate: Callable[[], object],
    timeout: float = 120,
    on_timeout: Callable[[], str] = str,
    interval: float = 0.05,
) -> None:
    """Wait until something is so, and look after each pause; `told` explains where it never is."""
    deadline = time.monotonic() + timeout
    while not predicate():
        assert time.monotonic() < deadline, on_timeout()
        time.sleep(interval)


def processes_under(home: Path) -> list[str]:
    """The command lines of all processes that have to do with this folder, but this one's."""
    command_lines = []
    for process in psutil.process_iter():
        try:
            if process.pid == os.getpid() or process.status() == psutil.STATUS_ZOMBIE:
                continue
            command_line = " ".join(process.cmdline())
            if (
                str(home)
                in f"{command_line} {process.cwd()} {process.environ().get('TIDEMILL_HOME')}"
            ):
                command_lines.append(command_line)
        except psutil.Error:  # it ended while we looked
            continue
    return command_lines
