"""The embedded broker: Apache Kafka on this machine, one KRaft node, loopback only.

Its folder contains everything: the data, the ports, the log, and `broker.json` while it runs. One
file lock serializes starting and stopping; a second one is shared by the broker's users.
"""

import json
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import psutil

from tidemill import locks
from tidemill.core.errors import LogUnavailable
from tidemill.local.broker.process import launch
from tidemill.textfile import atomic_write_text, tail_for_error

STARTUP_TIMEOUT_SECONDS = 60
SHUTDOWN_TIMEOUT_SECONDS = 30


@dataclass(frozen=True)
class Broker:
    """A running broker. `started` is true if this call started it."""

    bootstrap_servers: str
    pid: int
    started: bool = False


@dataclass(frozen=True)
class _State:
    """`broker.json`. A process is the broker only if its creation time matches, too."""

    pid: int
    create_time: float
    port: int
    persistent: bool  # started by `start`, not only for its users


def start(folder: Path) -> Broker:
    """Start the broker of this folder, until `stop`; one that is already running is returned.

    Raises `PrerequisiteMissing`, `DigestMismatch` (a jar), `LogUnavailable` (it did not start).
    """
    return _start(folder.absolute(), persistent=True)


def stop(folder: Path) -> bool:
    """Stop the broker of this folder; False if none is running. Its data is kept."""
    folder = folder.absolute()
    if not folder.is_dir():
        return False
    with locks.exclusive(folder / "start.lock"):
        return _stop(folder)


def status(folder: Path) -> Broker | None:
    """The running broker of this folder, or None."""
    state = _running_state(folder.absolute())
    return None if state is None else Broker(_bootstrap_servers(state.port), state.pid)


@contextmanager
def running(folder: Path) -> Iterator[str]:
    """The bootstrap servers of a broker that runs at least as long as this context.

    A broker that was not started by `start` stops when its last user, in this or another process,
    leaves this context; a user that crashed does not keep it running.
    """
    folder = folder.absolute()
    users_lock = folder / "users.lock"
    try:
        with locks.shared(users_lock):
            yield _start(folder, persistent=False).bootstrap_servers
    finally:
        with locks.exclusive(folder / "start.lock"):
            state = _running_state(folder)
            if state is not None and not state.persistent and locks.is_free(users_lock):
                _stop(folder)


def _start(folder: Path, *, persistent: bool) -> Broker:
    with locks.exclusive(folder / "start.lock"):
        state = _running_state(folder)
        # A broker that was just killed may still look alive; then it ends during the wait.
        if state is not None and _wait_until_ready(folder, state.port):
            if persistent and not state.persistent:
                _save_state(folder, replace(state, persistent=True))
            return Broker(_bootstrap_servers(state.port), state.pid)
        pid, port = launch(folder)
        _save_state(folder, _State(pid, psutil.Process(pid).create_time(), port, persistent))
        if not _wait_until_ready(folder, port):
            raise _start_error(folder, f"Process {pid} ended during the start.")
        return Broker(_bootstrap_servers(port), pid, started=True)


def _wait_until_ready(folder: Path, port: int) -> bool:
    """Wait until the broker responds; False if it ends instead. Raises `LogUnavailable`."""
    from confluent_kafka import KafkaException
    from confluent_kafka.admin import AdminClient

    admin_config = {
        "bootstrap.servers": _bootstrap_servers(port),
        "log_level": 0,
        "error_cb": lambda _: None,
    }
    deadline = time.monotonic() + STARTUP_TIMEOUT_SECONDS
    while time.monotonic() < deadline:
        if _running_state(folder) is None:
            return False
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            AdminClient(admin_config).list_topics(timeout=2)
        except (OSError, KafkaException):
            time.sleep(0.1)
        else:
            return True
    raise _start_error(folder, f"It did not respond within {STARTUP_TIMEOUT_SECONDS} s.")


def _start_error(folder: Path, detail: str) -> LogUnavailable:
    return LogUnavailable(
        f"The embedded broker in {folder} did not start. {detail}",
        tail_for_error(folder / "broker.log"),
    )


def _stop(folder: Path) -> bool:
    state = _running_state(folder)
    if state is not None:
        try:
            process = psutil.Process(state.pid)
            process.terminate()
            _wait_or_kill(process)
        except psutil.NoSuchProcess:
            pass
    (folder / "broker.json").unlink(missing_ok=True)
    return state is not None


def _wait_or_kill(process: psutil.Process) -> None:
    try:
        process.wait(SHUTDOWN_TIMEOUT_SECONDS)
    except psutil.TimeoutExpired:
        process.kill()
        process.wait(SHUTDOWN_TIMEOUT_SECONDS)


def _running_state(folder: Path) -> _State | None:
    """The broker's state, if its process is still alive and is the one that was started."""
    try:
        state = _State(**json.loads((folder / "broker.json").read_text()))
        process = psutil.Process(state.pid)
        is_ours = abs(process.create_time() - state.create_time) < 1
        return state if is_ours and process.status() != psutil.STATUS_ZOMBIE else None
    except (FileNotFoundError, ValueError, TypeError, psutil.NoSuchProcess):
        return None


def _save_state(folder: Path, state: _State) -> None:
    atomic_write_text(folder / "broker.json", json.dumps(asdict(state)))


def _bootstrap_servers(port: int) -> str:
    return f"127.0.0.1:{port}"
