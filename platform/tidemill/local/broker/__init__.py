"""The embedded broker: Apache Kafka on this machine, one KRaft node, loopback only.

Its folder contains everything: the data, the ports, the log, and `broker.json` while it runs.
"""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tidemill.core.errors import LogUnavailable
from tidemill.local.broker.process import launch
from tidemill.local.daemon import DaemonState, LocalDaemon
from tidemill.processes import tail_for_error

_SHUTDOWN_TIMEOUT_SECONDS = 30


@dataclass(frozen=True)
class Broker:
    """A running broker. `started` is true if this call started it."""

    bootstrap_servers: str
    pid: int
    started: bool = False


def start(folder: Path) -> Broker:
    """Start the broker of this folder, until `stop`; one that is already running is returned.

    Raises `PrerequisiteMissing`, `DigestMismatch` (a jar), `LogUnavailable` (it did not start).
    """
    state, started = _daemon(folder).start(persistent=True)
    return Broker(_bootstrap_servers(state), state.pid, started)


def stop(folder: Path) -> bool:
    """Stop the broker of this folder; False if none is running. Its data is kept."""
    return _daemon(folder).stop()


def status(folder: Path) -> Broker | None:
    """The running broker of this folder, or None."""
    state = _daemon(folder).state()
    return None if state is None else Broker(_bootstrap_servers(state), state.pid)


@contextmanager
def running(folder: Path) -> Iterator[str]:
    """The bootstrap servers of a broker that runs at least as long as this context.

    A broker that was not started by `start` stops when its last user, in this or another process,
    leaves this context; a user that crashed does not keep it running.
    """
    with _daemon(folder).running() as state:
        yield _bootstrap_servers(state)


def _daemon(folder: Path) -> LocalDaemon:
    folder = folder.absolute()
    return LocalDaemon(
        folder,
        folder / "broker.json",
        launch=partial(launch, folder),
        is_ready=_is_ready,
        start_error=partial(_start_error, folder),
        shutdown_timeout_seconds=_SHUTDOWN_TIMEOUT_SECONDS,
    )


def _is_ready(port: int) -> bool:
    from confluent_kafka import KafkaException
    from confluent_kafka.admin import AdminClient

    admin_config = {
        "bootstrap.servers": f"127.0.0.1:{port}",
        "log_level": 0,
        "error_cb": lambda _: None,
    }
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
        AdminClient(admin_config).list_topics(timeout=2)
    except (OSError, KafkaException):
        return False
    return True


def _start_error(folder: Path, detail: str) -> LogUnavailable:
    return LogUnavailable(
        f"The embedded broker in {folder} did not start. {detail}",
        tail_for_error(folder / "broker.log"),
    )


def _bootstrap_servers(state: DaemonState) -> str:
    return f"127.0.0.1:{state.port}"
