"""The worker process: reads bundles, forks one child per bundle, and reports each result."""

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

from tidemill.adapters.bundle_validation.result import ValidationResult
from tidemill.core import canonical
from tidemill.core.errors import TidemillError

MEMORY_LIMIT_BYTES = 4 << 30
"""Address space that a child may use in addition to what the worker has mapped."""


def main() -> None:
    """Respond to requests until the standard input ends."""
    responses = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # LightGBM prints to the standard output
    warm_up()
    memory_limit = _mapped_bytes() + MEMORY_LIMIT_BYTES
    while (request := _read_request(sys.stdin.buffer)) is not None:
        data = msgspec.json.encode(validate_in_child(*request, memory_limit))
        responses.write(struct.pack("<Q", len(data)) + data)
        responses.flush()


def warm_up() -> None:
    """Import the modules that a validation needs, without a thread: none survives a fork."""
    import tidemill.adapters.feature_function
    import tidemill.core.bundle  # noqa: F401
    from tidemill.core import lightgbm_import

    lightgbm_import.import_lightgbm()

    gc.freeze()


def validate_in_child(timeout: float, bundle: bytes, memory: int) -> ValidationResult:
    """Fork, validate, and report the child's result or its death."""
    read_fd, write_fd = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(read_fd)
            _set_limits(timeout, memory)
            with os.fdopen(write_fd, "wb") as pipe:
                pipe.write(msgspec.json.encode(validate_bundle(bundle)))
        finally:
            os._exit(0)
    os.close(write_fd)
    output, timed_out = _read_until_closed(read_fd, time.monotonic() + timeout)
    if timed_out:
        os.kill(pid, signal.SIGKILL)
    os.close(read_fd)
    _, status = os.waitpid(pid, 0)
    return _child_result(bundle, output, status, timed_out, timeout)


def validate_bundle(bundle: bytes) -> ValidationResult:
    """Load the bundle and check its golden rows, in this process."""
    from tidemill.adapters.feature_function import load_feature_function
    from tidemill.core.bundle import Header, Model

    try:
        header = msgspec.json.decode(bundle.partition(b"\n")[0], type=Header)
        function = load_feature_function(header.features[0]) if header.features else None
        Model.load(bundle, canonical.digest(bundle), function).validate()
    except TidemillError as error:
        return ValidationResult(type(error).__name__, error.message, error.remedy)
    except Exception as error:  # from the feature function, or unforeseen damage
        message = f"Bundle {canonical.digest(bundle)} fails: {type(error).__name__}: {error}."
        return ValidationResult("BundleInvalid", message)
    return ValidationResult(None)


def _child_result(
    bundle: bytes, output: bytes, status: int, timed_out: bool, timeout: float
) -> ValidationResult:
    name = f"Bundle {canonical.digest(bundle)}"
    if timed_out:
        message = f"{name} was not validated within {timeout:g} seconds."
        return ValidationResult("BundleInvalid", message)
    if os.WIFSIGNALED(status):
        signal_name = signal.Signals(os.WTERMSIG(status)).name
        message = f"{name} crashed the process that loaded it with {signal_name}."
        return ValidationResult("BundleInvalid", message)
    try:
        return msgspec.json.decode(output, type=ValidationResult)
    except msgspec.DecodeError:
        return ValidationResult("BundleInvalid", f"{name} crashed the process that loaded it.")


def _set_limits(timeout: float, memory: int) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    cpu = int(timeout) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (cpu, cpu))


def _mapped_bytes() -> int:
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[0]) * resource.getpagesize()


def _read_request(stream: BinaryIO) -> tuple[float, bytes] | None:
    """The timeout (s) and the bundle, or None if the other side has closed the pipe."""
    prefix = stream.read(16)
    if len(prefix) < 16:
        return None
    timeout, size = struct.unpack("<dQ", prefix)
    bundle = stream.read(size)
    return (timeout, bundle) if len(bundle) == size else None


def _read_until_closed(fd: int, deadline: float) -> tuple[bytes, bool]:
    """The bytes written until the other end closes, and whether the deadline passed first."""
    data = b""
    while True:
        if not select.select([fd], [], [], max(0.0, deadline - time.monotonic()))[0]:
            return data, True
        chunk = os.read(fd, 65_536)
        if not chunk:
            return data, False
        data += chunk


if __name__ == "__main__":
    main()
