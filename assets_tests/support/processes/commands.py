"""Subprocesses: running them, their output, and the processes they leave behind."""

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
    """This process's environment plus `env`, without other settings of tidemill and Dagster."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(_OWN_PREFIXES)}
    return {**inherited, "NO_COLOR": "1", "COLUMNS": "200", **env}


def run_command(
    env: Mapping[str, str], *command: str, timeout: float = 300
) -> "subprocess.CompletedProcess[str]":
    """Run a command of the virtual environment to completion; its output as text."""
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
    env: Mapping[str, str], *command: str, cwd: Path | None = None, name: str = "output"
) -> "Iterator[subprocess.Popen[bytes]]":
    """Run a command in the background in its own session; `output` reads its output.

    If it still runs at the end of the block, it and its children are killed.
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


def output(env: Mapping[str, str], name: str = "output") -> str:
    """The output so far of a command that was started by `background`."""
    return (Path(env["TIDEMILL_HOME"]) / f"{name}.txt").read_text(errors="replace")


def interrupt(process: "subprocess.Popen[bytes]", timeout: float = 60) -> int:
    """Send SIGINT to the process group, as a terminal does on Ctrl-C; the exit code."""
    os.killpg(process.pid, signal.SIGINT)
    return process.wait(timeout)


def wait_until(
    predicate: Callable[[], object],
    timeout: float = 120,
    interval: float = 0.05,
    on_timeout: Callable[[], str] = str,
) -> None:
    """Poll until `predicate` holds; after `timeout` seconds fail with the text of `on_timeout`."""
    deadline = time.monotonic() + timeout
    while not predicate():
        assert time.monotonic() < deadline, on_timeout()
        time.sleep(interval)


def processes_under(home: Path) -> list[str]:
    """The command lines of all other processes that use this folder."""
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
        except psutil.Error:  # the process has exited
            continue
    return command_lines
