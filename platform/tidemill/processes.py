"""Child processes: output in a log, an end within a timeout, and an end with their parent."""

import ctypes
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

_PR_SET_PDEATHSIG = 1
_STACK_FRAME = "\tat "


def spawn_daemon(command: Sequence[str], log_file: Path, **options: Any) -> psutil.Process:
    """Start a process that may outlive this one, with its output appended to the log.

    It leads a session of its own, so Ctrl-C reaches only the starting process, and its environment
    is clean, so no variable that is meant for another program affects it. `options` are those of
    `subprocess.Popen`.
    """
    with log_file.open("ab") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env={"LANG": "C.UTF-8"},
            start_new_session=True,
            **options,
        )
    process.returncode = 0  # it outlives this object, which would otherwise warn
    return psutil.Process(process.pid)


def spawn_child(
    command: Sequence[str], env: Mapping[str, str], **stdio: Any
) -> "subprocess.Popen[bytes]":
    """Start a process that Ctrl-C does not reach, and that ends with this one.

    `stdio` are the arguments `stdin`, `stdout` and `stderr` of `subprocess.Popen`.
    """
    return subprocess.Popen(
        command, env=env, start_new_session=True, preexec_fn=terminate_with_parent, **stdio
    )


def run_logged(command: Sequence[str], log_file: Path, **options: Any) -> int:
    """Run a command with its output appended to the log; its exit code."""
    with log_file.open("ab") as output:
        return subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, check=False, **options
        ).returncode


def stop(
    process: "psutil.Process | subprocess.Popen[bytes]",
    timeout_seconds: float,
    stop_signal: signal.Signals = signal.SIGTERM,
) -> None:
    """Send the signal and wait; a process that has not ended at the timeout is killed."""
    process.send_signal(stop_signal)
    try:
        process.wait(timeout_seconds)
    except (psutil.TimeoutExpired, subprocess.TimeoutExpired):
        process.kill()
        process.wait(timeout_seconds)


def stop_all(processes: Sequence[psutil.Process], timeout_seconds: float) -> None:
    """Terminate the processes; kill those that have not ended at the timeout."""
    for process in processes:
        with suppress(psutil.Error):
            process.terminate()
    _, alive = psutil.wait_procs(processes, timeout_seconds)
    for process in alive:
        with suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(alive, timeout_seconds)


def kill_group(leader: "subprocess.Popen[bytes]") -> None:
    """Kill a process that leads a group, and the rest of the group, which would survive it."""
    with suppress(ProcessLookupError):
        os.killpg(leader.pid, signal.SIGKILL)


def terminate_with_parent() -> None:
    """Have the kernel send this process SIGTERM when the thread that started it ends."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def last_lines(output: bytes, count: int) -> list[str]:
    """The last lines of a process's output, without Java's stack frames."""
    lines = output.decode(errors="replace").strip().splitlines()
    return [line for line in lines if not line.startswith(_STACK_FRAME)][-count:]


def tail_for_error(log_file: Path) -> str:
    """The last lines of a log, and its path: for a remedy."""
    output = log_file.read_bytes() if log_file.is_file() else b""
    tail = "\n".join(last_lines(output, 6))
    return f"Its last lines are:\n{tail}\nThe whole log is {log_file}."
