"""The embedded broker: Apache Kafka on this machine, one KRaft node, loopback only.

Its folder holds all of it: the data, the ports it was given, its log, and `broker.json` while it
runs. A file lock makes starting and stopping one at a time; a second one tells who still uses it.
"""

import fcntl
import json
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import psutil

from tidemill.adapters.broker.process import launch
from tidemill.adapters.textfile import last_words, write
from tidemill.core.errors import LogUnavailable

START_SECONDS = 60
STOP_SECONDS = 30


@dataclass(frozen=True)
class Broker:
    """A running broker. `started` says that this very call started it."""

    bootstrap_servers: str
    pid: int
    started: bool = False


@dataclass(frozen=True)
class _State:
    """`broker.json`. A process is ours only if its time of creation matches, too."""

    pid: int
    created: float
    port: int
    keep: bool  # started to stay, not only for as long as somebody uses it


def start(folder: Path) -> Broker:
    """Start the broker of this folder, to stay until `stop`; one that runs already is told.

    Raises `PrerequisiteMissing`, `DigestMismatch` (a jar), `LogUnavailable` (it did not come up).
    """
    return _start(folder.absolute(), keep=True)


def stop(folder: Path) -> bool:
    """Stop the broker of this folder; False where none runs. Its data stay."""
    folder = folder.absolute()
    if not folder.is_dir():
        return False
    with _lock(folder / "start.lock"):
        return _stop(folder)


def status(folder: Path) -> Broker | None:
    """The running broker of this folder; None where none runs."""
    state = _alive(folder.absolute())
    return None if state is None else Broker(_address(state.port), state.pid)


@contextmanager
def running(folder: Path) -> Iterator[str]:
    """The bootstrap servers of a broker that runs for as long as somebody is in here.

    A broker that was not started by `start` ends with the last one that leaves, this process or
    another; one that left by dying does not count.
    """
    folder = folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "users.lock").open("a") as users:
        fcntl.flock(users, fcntl.LOCK_SH)
        try:
            yield _start(folder, keep=False).bootstrap_servers
        finally:
            fcntl.flock(users, fcntl.LOCK_UN)
            with _lock(folder / "start.lock"):
                state = _alive(folder)
                if state is not None and not state.keep and _free(folder / "users.lock"):
                    _stop(folder)


def _start(folder: Path, *, keep: bool) -> Broker:
    folder.mkdir(parents=True, exist_ok=True)
    with _lock(folder / "start.lock"):
        state = _alive(folder)
        # One that was killed a moment ago may still look alive; then it ends while we wait.
        if state is not None and _answers(folder, state.port):
            if keep and not state.keep:
                _remember(folder, replace(state, keep=True))
            return Broker(_address(state.port), state.pid)
        pid, port = launch(folder)
        _remember(folder, _State(pid, psutil.Process(pid).create_time(), port, keep))
        if not _answers(folder, port):
            raise _not_up(folder, f"Process {pid} ended while it started.")
        return Broker(_address(port), pid, started=True)


def _answers(folder: Path, port: int) -> bool:
    """Wait until the broker answers; False if it ends instead. Raises `LogUnavailable`."""
    from confluent_kafka import KafkaException
    from confluent_kafka.admin import AdminClient

    quiet = {"bootstrap.servers": _address(port), "log_level": 0, "error_cb": lambda _: None}
    until = time.monotonic() + START_SECONDS
    while time.monotonic() < until:
        if _alive(folder) is None:
            return False
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            AdminClient(quiet).list_topics(timeout=2)
        except (OSError, KafkaException):
            time.sleep(0.1)
        else:
            return True
    raise _not_up(folder, f"It did not answer within {START_SECONDS} s.")


def _not_up(folder: Path, what: str) -> LogUnavailable:
    return LogUnavailable(
        f"The embedded broker in {folder} did not come up. {what}",
        last_words(folder / "broker.log"),
    )


def _stop(folder: Path) -> bool:
    state = _alive(folder)
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
        process.wait(STOP_SECONDS)
    except psutil.TimeoutExpired:
        process.kill()
        process.wait(STOP_SECONDS)


def _alive(folder: Path) -> _State | None:
    """The state of the broker, if its process still lives and is the one that was started."""
    try:
        state = _State(**json.loads((folder / "broker.json").read_text()))
        process = psutil.Process(state.pid)
        ours = abs(process.create_time() - state.created) < 1
        return state if ours and process.status() != psutil.STATUS_ZOMBIE else None
    except (FileNotFoundError, ValueError, TypeError, psutil.NoSuchProcess):
        return None


def _remember(folder: Path, state: _State) -> None:
    write(folder / "broker.json", json.dumps(asdict(state)))


def _address(port: int) -> str:
    return f"127.0.0.1:{port}"


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _free(path: Path) -> bool:
    """Whether nobody holds the lock, seen from a file of our own."""
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True
