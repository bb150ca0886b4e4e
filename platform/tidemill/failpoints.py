"""Failpoints: named places around each commit where a test can make this process fail.

Off unless armed. A fault is `name:action[:hit]`; several are joined by `,`. An action is `kill`,
`eio`, `enospc`, `stop` (SIGSTOP) or `sleep=SECONDS`; `hit` counts from 1 (the default).
"""

import errno
import os
import signal
import time
from collections.abc import Callable

_armed: dict[str, tuple[str, int]] = {}
_callbacks: list[Callable[[str], None]] = []


def arm(faults: str) -> None:
    """Arm the faults of this text; an empty text disarms all."""
    _armed.clear()
    for fault in filter(None, faults.split(",")):
        name, action, *hit = fault.split(":")
        _armed[name] = (action, int(hit[0]) if hit else 1)


def on_reached(callback: Callable[[str], None] | None) -> None:
    """Call this with the name of every failpoint that is reached; None removes the callback."""
    _callbacks[:] = [callback] if callback else []


def failpoint(name: str) -> None:
    """Fail here if this failpoint is armed."""
    for callback in _callbacks:
        callback(name)
    if name not in _armed:
        return
    action, remaining = _armed[name]
    _armed[name] = (action, remaining - 1)
    if remaining != 1:
        return
    if action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif action == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
    elif action.startswith("sleep="):
        time.sleep(float(action.removeprefix("sleep=")))
    else:
        code = {"eio": errno.EIO, "enospc": errno.ENOSPC}[action]
        raise OSError(code, os.strerror(code), name)
