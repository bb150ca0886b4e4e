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
_OURS = ("TIDEMILL_", "DAGSTER_")


def environ(environment: Mapping[str, str]) -> dict[str, str]:
    """This process's environment with these settings, and none of tidemill's or Dagster's own."""
    rest = {k: v for k, v in os.environ.items() if not k.startswith(_OURS)}
    return {**rest, "NO_COLOR": "1", "COLUMNS": "200", **environment}


def command(
    environment: Mapping[str, str], *words: str, seconds: float = 300
) -> "subprocess.CompletedProcess[str]":
    """Run a command of the environment to its end; its output as text."""
    return subprocess.run(
        [str(_BIN / words[0]), *words[1:]],
        cwd=environment["TIDEMILL_HOME"],
        env=environ(environment),
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )


@contextmanager
def begun(
    environment: Mapping[str, str], *words: str, cwd: Path | None = None, name: str = "said"
) -> "Iterator[subprocess.Popen[bytes]]":
    """A command under way, in a session of its own; its output is told by `said`.

    If it still runs at the end, it and its children are killed.
    """
    home = Path(environment["TIDEMILL_HOME"])
    with (home / f"{name}.txt").open("wb") as output:
        process = subprocess.Popen(
            [str(_BIN / words[0]), *words[1:]],
            cwd=cwd or home,
            env=environ(environment),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            family = [*psutil.Process(process.pid).children(recursive=True), process]
            for member in family:
                member.kill()
        process.wait(30)


def said(environment: Mapping[str, str], name: str = "said") -> str:
    """What a command that was begun has said so far."""
    return (Path(environment["TIDEMILL_HOME"]) / f"{name}.txt").read_text(errors="replace")


def interrupted(process: "subprocess.Popen[bytes]", seconds: float = 60) -> int:
    """Ctrl-C: SIGINT to the whole foreground group, as a terminal sends it; the exit code."""
    os.killpg(process.pid, signal.SIGINT)
    return process.wait(seconds)


def until(
    true: Callable[[], object],
    seconds: float = 120,
    told: Callable[[], str] = str,
    pause: float = 0.05,
) -> None:
    """Wait until something is so, and look after each pause; `told` explains where it never is."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, told()
        time.sleep(pause)


def at_work_in(home: Path) -> list[str]:
    """The command lines of all processes that have to do with this folder, but this one's."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.pid == os.getpid() or process.status() == psutil.STATUS_ZOMBIE:
                continue
            words = " ".join(process.cmdline())
            if str(home) in f"{words} {process.cwd()} {process.environ().get('TIDEMILL_HOME')}":
                found.append(words)
        except psutil.Error:  # it ended while we looked
            continue
    return found
