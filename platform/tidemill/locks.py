"""File locks between processes; the kernel releases them if their holder dies."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import portalocker
from portalocker import LockFlags

_RETRY_SECONDS = 0.1
"""Longer than a check of this module holds a lock."""


@contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Hold the lock alone, after waiting for it."""
    with _open(path) as file:
        portalocker.lock(file, LockFlags.EXCLUSIVE)
        yield


@contextmanager
def shared(path: Path) -> Iterator[None]:
    """Hold the lock together with others that share it, after waiting for an exclusive holder."""
    with _open(path) as file:
        portalocker.lock(file, LockFlags.SHARED)
        yield


@contextmanager
def exclusive_or_raise(path: Path, error: Callable[[str], Exception]) -> Iterator[None]:
    """Hold the lock alone, with this process's id in the file, or raise `error(holder)`.

    `holder` is the id of the process that holds it, or `unknown`. A check by `is_free` or
    `is_exclusively_held` is not taken for a holder.
    """
    with _open(path) as file:
        if not _try_lock(file, LockFlags.EXCLUSIVE):
            time.sleep(_RETRY_SECONDS)
            if not _try_lock(file, LockFlags.EXCLUSIVE):
                file.seek(0)
                raise error(file.read().strip() or "unknown")
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def is_free(path: Path) -> bool:
    """Whether no process holds the lock, alone or shared."""
    with _open(path) as file:
        return _try_lock(file, LockFlags.EXCLUSIVE)


def is_exclusively_held(path: Path) -> bool:
    """Whether a process holds the lock alone; simultaneous checks do not disturb each other."""
    with _open(path) as file:
        return not _try_lock(file, LockFlags.SHARED)


def _open(path: Path) -> IO[str]:
    """The lock's file; each opening is another holder, also within one process."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.open("a+")


def _try_lock(file: IO[str], flags: LockFlags) -> bool:
    try:
        portalocker.lock(file, flags | LockFlags.NON_BLOCKING)
    except portalocker.AlreadyLocked:
        return False
    return True
