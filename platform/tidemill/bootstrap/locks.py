"""The locks of the models: one process at a time works on a model."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tidemill import locks
from tidemill.core.errors import AlreadyRunning
from tidemill.settings import Settings


@contextmanager
def exclusive_lock(model: str, settings: Settings) -> Iterator[None]:
    """Hold the model's lock; the kernel releases it if the process dies. Raises `AlreadyRunning`.

    It only saves work: two writers are safe without it, because the first writer of a record wins.
    """

    def error(holder: str) -> AlreadyRunning:
        return AlreadyRunning(
            f"Model {model} is in use by process {holder}.",
            "Wait until that process ends, or stop it; completed work is kept.",
        )

    with locks.exclusive_or_raise(_lock_file(model, settings), error):
        yield


def is_locked(model: str, settings: Settings) -> bool:
    """Whether a process holds the model's lock now; `exclusive_lock` waits out this check."""
    return locks.is_exclusively_held(_lock_file(model, settings))


def _lock_file(model: str, settings: Settings) -> Path:
    return settings.home / "locks" / f"{model}.lock"
