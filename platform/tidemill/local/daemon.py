"""A daemon of this machine: one process per folder, which runs while it has users.

The lock `start.lock` serializes starting and stopping; `users.lock` is shared by the users.
"""

import json
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import psutil

from tidemill import locks, processes
from tidemill.polling import wait_until
from tidemill.textfile import atomic_write_text


@dataclass(frozen=True)
class DaemonState:
    """A daemon's process and port, as the state file records it.

    A process is the daemon only if its creation time matches, too: a process id may be given to
    another process. A `persistent` daemon does not stop when its last user leaves.
    """

    pid: int
    create_time: float
    port: int
    persistent: bool

    @classmethod
    def of(cls, process: psutil.Process, port: int, *, persistent: bool) -> "DaemonState":
        return cls(process.pid, process.create_time(), port, persistent)


@dataclass(frozen=True)
class LocalDaemon:
    """The daemon of one folder, whether or not it is running.

    `launch` starts the process and returns it and its port; `is_ready` is called with the port;
    `start_error` makes the error of a failed start from a sentence that says why. `supervised`
    finds a process that something else keeps running in this folder: it is used, never stopped.
    """

    folder: Path
    state_file: Path
    launch: Callable[[], tuple[psutil.Process, int]]
    is_ready: Callable[[int], bool]
    start_error: Callable[[str], Exception]
    stop_signal: signal.Signals = signal.SIGTERM
    startup_timeout_seconds: float = 60
    shutdown_timeout_seconds: float = 60
    supervised: Callable[[], DaemonState | None] = lambda: None

    def state(self) -> DaemonState | None:
        """The state of the running process, or None."""
        return self._own_state() or self.supervised()

    def start(self, *, persistent: bool) -> tuple[DaemonState, bool]:
        """Start the process and wait until it is ready; one that is already running is kept.

        Returns the state and whether this call started the process. Raises what `launch` raises,
        and `start_error`.
        """
        with self._start_lock():
            state = self.state()
            # A process that was just killed may still look alive; then it ends during the wait.
            if state is not None and self._wait_until_ready(state.port):
                if persistent and not state.persistent:
                    self._save(replace(state, persistent=True))
                return state, False
            process, port = self.launch()
            state = DaemonState.of(process, port, persistent=persistent)
            self._save(state)
            if not self._wait_until_ready(port):
                raise self.start_error(f"Process {process.pid} ended during the start.")
            return state, True

    def stop(self) -> bool:
        """Stop the process; False if none is running that was started here."""
        if not self.folder.is_dir():
            return False
        with self._start_lock():
            return self._stop()

    @contextmanager
    def running(self) -> Iterator[DaemonState]:
        """Run the process at least as long as this context; see `start` for what it raises.

        A process that is not persistent stops when its last user, in this or another process,
        leaves this context; a user that crashed does not keep it running.
        """
        users_lock = self.folder / "users.lock"
        try:
            with locks.shared(users_lock):
                state, _ = self.start(persistent=False)
                yield state
        finally:
            with self._start_lock():
                own_state = self._own_state()
                is_unused = own_state is not None and not own_state.persistent
                if is_unused and locks.is_free(users_lock):
                    self._stop()

    def _start_lock(self) -> AbstractContextManager[None]:
        return locks.exclusive(self.folder / "start.lock")

    def _wait_until_ready(self, port: int) -> bool:
        """Wait until the daemon responds; False if it ends instead. Raises `start_error`."""
        timeout = self.startup_timeout_seconds
        if not wait_until(lambda: self.state() is None or self.is_ready(port), timeout):
            raise self.start_error(f"It did not respond within {timeout:g} s.")
        return self.state() is not None

    def _own_state(self) -> DaemonState | None:
        """The state file's content, if its process is alive and is the one that was started."""
        try:
            state = DaemonState(**json.loads(self.state_file.read_text()))
            process = psutil.Process(state.pid)
            is_ours = abs(process.create_time() - state.create_time) < 1
            return state if is_ours and process.status() != psutil.STATUS_ZOMBIE else None
        except (FileNotFoundError, ValueError, TypeError, psutil.NoSuchProcess):
            return None

    def _save(self, state: DaemonState) -> None:
        atomic_write_text(self.state_file, json.dumps(asdict(state)))

    def _stop(self) -> bool:
        state = self._own_state()
        if state is not None:
            with suppress(psutil.NoSuchProcess):
                process = psutil.Process(state.pid)
                processes.stop(process, self.shutdown_timeout_seconds, self.stop_signal)
        self.state_file.unlink(missing_ok=True)
        return state is not None
