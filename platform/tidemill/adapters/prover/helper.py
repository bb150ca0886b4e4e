"""The helper process of the prover: reads bundles, forks a child for each, tells how it ended."""

import gc
import os
import resource
import select
import signal
import struct
import sys
import time
from typing import BinaryIO

import msgspec

from tidemill.adapters.prover.answer import Answer
from tidemill.core import canonical
from tidemill.core.errors import TidemillError

MEMORY = 4 << 30
"""Bytes of address space that a child may take on top of what the helper has mapped."""


def main() -> None:
    """Answer until the standard input ends."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # LightGBM prints to the standard output
    warm_up()
    limit = _mapped() + MEMORY
    while (request := _request(sys.stdin.buffer)) is not None:
        data = msgspec.json.encode(prove_in_child(*request, limit))
        answers.write(struct.pack("<Q", len(data)) + data)
        answers.flush()


def warm_up() -> None:
    """Import what a proof needs, and start no thread: threads do not survive a fork."""
    import tidemill.adapters.feature_function
    import tidemill.core.bundle  # noqa: F401
    from tidemill.core import boosting

    boosting.import_lightgbm()

    gc.freeze()


def prove_in_child(seconds: float, bundle: bytes, memory: int) -> Answer:
    """Fork, prove, and report the child's answer or its death."""
    out, into = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(out)
            _limit(seconds, memory)
            with os.fdopen(into, "wb") as pipe:
                pipe.write(msgspec.json.encode(prove(bundle)))
        finally:
            os._exit(0)
    os.close(into)
    told, late = _until_closed(out, time.monotonic() + seconds)
    if late:
        os.kill(pid, signal.SIGKILL)
    os.close(out)
    _, status = os.waitpid(pid, 0)
    return _outcome(bundle, told, status, late, seconds)


def prove(bundle: bytes) -> Answer:
    """Load the bundle and let it answer its golden rows, in this process."""
    from tidemill.adapters.feature_function import load_feature_function
    from tidemill.core.bundle import Header, Model

    try:
        header = msgspec.json.decode(bundle.partition(b"\n")[0], type=Header)
        function = load_feature_function(header.features[0]) if header.features else None
        Model.load(bundle, canonical.digest(bundle), function).validate()
    except TidemillError as error:
        return Answer(type(error).__name__, error.message, error.remedy)
    except Exception as error:  # the feature function, or damage that nobody foresaw
        told = f"Bundle {canonical.digest(bundle)} fails: {type(error).__name__}: {error}."
        return Answer("BundleUnfit", told)
    return Answer(None)


def _outcome(bundle: bytes, told: bytes, status: int, late: bool, seconds: float) -> Answer:
    name = f"Bundle {canonical.digest(bundle)}"
    if late:
        return Answer("BundleUnfit", f"{name} was not proven within {seconds:g} seconds.")
    if os.WIFSIGNALED(status):
        fatal = signal.Signals(os.WTERMSIG(status)).name
        return Answer("BundleUnfit", f"{name} ended the process that loaded it by {fatal}.")
    try:
        return msgspec.json.decode(told, type=Answer)
    except msgspec.DecodeError:
        return Answer("BundleUnfit", f"{name} ended the process that loaded it.")


def _limit(seconds: float, memory: int) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    cpu = int(seconds) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (cpu, cpu))


def _mapped() -> int:
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[0]) * resource.getpagesize()


def _request(stream: BinaryIO) -> tuple[float, bytes] | None:
    """Seconds and bundle; None where the other side is gone."""
    start = stream.read(16)
    if len(start) < 16:
        return None
    seconds, size = struct.unpack("<dQ", start)
    bundle = stream.read(size)
    return (seconds, bundle) if len(bundle) == size else None


def _until_closed(fd: int, deadline: float) -> tuple[bytes, bool]:
    """What is written until the other end closes, and whether the deadline came first."""
    data = b""
    while True:
        if not select.select([fd], [], [], max(0.0, deadline - time.monotonic()))[0]:
            return data, True
        part = os.read(fd, 65_536)
        if not part:
            return data, False
        data += part


if __name__ == "__main__":
    main()
