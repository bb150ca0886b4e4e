"""The worker processes of a server, which share its address."""

import logging
import os
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

from tidemill.core.errors import PrerequisiteMissing
from tidemill.processes import terminate_with_parent
from tidemill.serving.shutdown import shutdown_requested

logger = logging.getLogger("tidemill.serving")

_MIN_LIFETIME_SECONDS = 2.0
"""A worker that exits sooner is not restarted, because it would fail again."""
_RESTART_DELAY_SECONDS = 1.0
"""Seconds before a worker that exited is restarted."""


@dataclass(frozen=True)
class Worker:
    """One of the processes that serve, numbered from 0."""

    number: int
    is_restart: bool = False

    @property
    def writes_local_copy(self) -> bool:
        """Whether it writes the local copy, which the workers share."""
        return self.number == 0

    @property
    def listens_before_ready(self) -> bool:
        """Whether it listens at once, so that the probes are answered while the models load.

        The others listen only when they are ready: once the first one is, no probe reaches a worker
        that is not.
        """
        return self.number == 0 and not self.is_restart


RunWorker = Callable[[Worker], None]
"""Serves until SIGTERM."""


@contextmanager
def shared_metrics(worker_count: int) -> Iterator[None]:
    """A folder in which several workers share their metrics.

    prometheus_client must be imported only here, because it reads the variable at its import.
    """
    if worker_count == 1:
        yield
        return
    with tempfile.TemporaryDirectory(prefix="tidemill-serve-") as folder:
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder
        yield


def run_workers(count: int, run_worker: RunWorker) -> None:
    """Serve until SIGTERM, in this process or in as many workers.

    Raises what `run_worker` raises in this process; `PrerequisiteMissing` if one of several workers
    exits as soon as it is started.
    """
    if count == 1:
        run_worker(Worker(0))
    else:
        _Supervisor(run_worker).run(count)


class _Supervisor:
    """Forks the workers and restarts those that exit.

    This process starts no thread, so that it may fork at any time.
    """

    def __init__(self, run_worker: RunWorker) -> None:
        self._run_worker = run_worker
        self._numbers: dict[int, int] = {}
        """The numbers of the running workers, by process id."""
        self._started_at: dict[int, float] = {}
        self._stopping = self._start_failed = False

    def run(self, count: int) -> None:
        """Return when all workers have ended after SIGTERM."""
        for number in range(count):
            self._start(Worker(number))
        for signal_number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(signal_number, self._on_signal)
        if shutdown_requested.is_set():
            self._stop()
        while self._numbers:
            pid, status = os.wait()
            self._on_exit(self._numbers.pop(pid), status)
        if self._start_failed:
            raise PrerequisiteMissing(
                "A worker exited as soon as it was started.", "The log above has its error."
            )

    def _start(self, worker: Worker) -> None:
        self._started_at[worker.number] = time.monotonic()
        pid = _fork(worker, self._run_worker)
        self._numbers[pid] = worker.number
        if self._stopping:  # the signal arrived before the worker was registered
            os.kill(pid, signal.SIGTERM)

    def _on_signal(self, signal_number: int, frame: FrameType | None) -> None:
        self._stop()

    def _stop(self) -> None:
        self._stopping = True
        for pid in self._numbers:
            os.kill(pid, signal.SIGTERM)

    def _on_exit(self, number: int, status: int) -> None:
        lifetime = time.monotonic() - self._started_at[number]
        if not self._stopping and lifetime < _MIN_LIFETIME_SECONDS:
            self._start_failed = True
            self._stop()
        if not self._stopping:
            logger.error("Worker %d exited (%d); it is being restarted.", number, status)
            time.sleep(_RESTART_DELAY_SECONDS)
        if not self._stopping:
            self._start(Worker(number, is_restart=True))


def _fork(worker: Worker, run_worker: RunWorker) -> int:
    """Fork a worker that ends with this process; its process id."""
    parent = os.getpid()
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        terminate_with_parent()
        if os.getppid() == parent:
            run_worker(worker)
            code = 0
    except BaseException:
        logger.exception("Worker %d failed.", worker.number)
    finally:
        os._exit(code)
