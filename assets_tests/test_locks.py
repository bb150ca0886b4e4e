"""File locks between processes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tidemill import locks
from tidemill.core.errors import AlreadyRunning


def _error(holder: str) -> AlreadyRunning:
    return AlreadyRunning(f"in use by process {holder}", "Wait.")


def test_exclusive_lock_names_its_holder_until_the_holder_is_killed(tmp_path: Path) -> None:
    path = tmp_path / "locks" / "flights.lock"
    code = (
        "import sys, time; from pathlib import Path; from tidemill import locks\n"
        "with locks.exclusive_or_raise(Path(sys.argv[1]), RuntimeError):\n"
        "    print(flush=True); time.sleep(60)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        assert locks.is_exclusively_held(path)
        with (
            pytest.raises(AlreadyRunning, match=f"in use by process {holder.pid}"),
            locks.exclusive_or_raise(path, _error),
        ):
            pass
        holder.kill()
    assert not locks.is_exclusively_held(path)
    with locks.exclusive_or_raise(path, _error):
        assert path.read_text() == str(os.getpid())


def test_shared_lock_is_not_free_but_has_no_exclusive_holder(tmp_path: Path) -> None:
    path = tmp_path / "users.lock"
    with locks.shared(path), locks.shared(path):
        assert not locks.is_free(path)
        assert not locks.is_exclusively_held(path)
    with locks.exclusive(path):
        assert not locks.is_free(path)
        assert locks.is_exclusively_held(path)
    assert locks.is_free(path)
