"""The locks of the models: one process at a time works on a model."""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

from tidemill.core.errors import AlreadyRunning
from tidemill.settings import Settings

_LOCK_RETRY_SECONDS = 0.1  # longer than `is_locked` holds the lock


@contextmanager
def exclusive_lock(model: str, settings: Settings) -> Iterator[None]:
    """Hold the model's lock; the kernel releases it if the process dies. Raises `AlreadyRunning`.

    It only saves work: two writers are safe without it, because the first writer of a record wins.
    """
    with _lock_file(model, settings) as lock:
        if not (
            _try_lock(lock, fcntl.LOCK_EX) or _try_lock(lock, fcntl.LOCK_EX, _LOCK_RETRY_SECONDS)
        ):
            lock.seek(0)
            raise AlreadyRunning(
                f"Model {model} is in use by process {lock.read().strip() or 'unknown'}.",
                "Wait until that process ends, or stop it; completed work is kept.",
            )
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


def is_locked(model: str, settings: Settings) -> bool:
    """Whether a process holds the model's lock now; `exclusive_lock` waits out this check."""
    with _lock_file(model, settings) as lock:
        return not _try_lock(lock, fcntl.LOCK_SH)


def _lock_file(model: str, settings: Settings) -> IO[str]:
    folder = settings.home / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    return (folder / f"{model}.lock").open("a+")


def _try_lock(lock: IO[str], operation: int, delay_seconds: float = 0) -> bool:
    """Wait this many seconds, then try to lock; whether that succeeded."""
    time.sleep(delay_seconds)
    try:
        fcntl.flock(lock, operation | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
