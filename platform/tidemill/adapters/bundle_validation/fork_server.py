"""Validates bundles in limited children, forked from a worker that has LightGBM loaded."""

import os
import select
import struct
import subprocess
import sys
import tempfile
import threading
import time
from typing import IO, Self

import msgspec

from tidemill.adapters.bundle_validation.result import REMEDY, ValidationResult
from tidemill.core.errors import BundleInvalid
from tidemill.processes import kill_group, last_lines

STARTUP_TIMEOUT_SECONDS = 120.0
"""How long the worker may take for its imports, on a busy machine."""
RESPONSE_GRACE_SECONDS = 10.0
"""How much longer than its child the worker may take to respond."""


class ForkServerValidator:
    """The port `BundleValidator`.

    The worker starts at the first validation, or earlier by `start`, and is restarted if it died. A
    child may use `timeout` seconds of wall clock and of CPU. Threads may share one object; their
    validations run one at a time.
    """

    def __init__(self, timeout: float = 20.0) -> None:
        self._timeout = timeout
        self._lock = threading.Lock()
        self._worker: subprocess.Popen[bytes] | None = None
        self._stderr: IO[bytes] | None = None
        self._ready = False  # whether the worker has finished its imports
        self._aborted = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def pid(self) -> int | None:
        """The worker's process id, or None if it is not running."""
        return self._worker.pid if self._worker else None

    def validate(self, bundle: bytes) -> None:
        """Load the bundle in a child and compare its predictions for the golden rows.

        Raises `FeatureSkew` if a prediction differs, `SpecInvalid` if the feature function cannot
        be loaded, `BundleInvalid` if the child dies or times out.
        """
        with self._lock:
            result = self._request(bundle)
            if (
                result is None and not self._aborted
            ):  # the worker has died since the last validation
                self._terminate()
                result = self._request(bundle)
            if self._aborted:
                raise BundleInvalid("The validation was aborted by a shutdown.", "Run it again.")
            if result is None:
                stderr_tail = self._stderr_tail()
                self._terminate()
                raise BundleInvalid(f"The bundle validation worker died{stderr_tail}.", REMEDY)
        result.raise_for_error()

    def start(self) -> None:
        """Start the worker now, so that it is ready for the first validation."""
        with self._lock:
            if self._worker is None:
                self._spawn()

    def close(self) -> None:
        """Stop the worker; a later validation starts a new one."""
        with self._lock:
            self._terminate()

    def abort(self) -> None:
        """Abort the running validation, which then fails, and all later ones; thread-safe."""
        self._aborted = True
        if self._worker is not None:
            kill_group(self._worker)

    def _request(self, bundle: bytes) -> ValidationResult | None:
        """The worker's response, or None if it is dead."""
        worker = self._worker or self._spawn()
        assert worker.stdin is not None
        assert worker.stdout is not None
        try:
            worker.stdin.write(struct.pack("<dQ", self._timeout, len(bundle)))
            worker.stdin.write(bundle)
            worker.stdin.flush()
        except OSError:
            return None
        timeout = (
            self._timeout + RESPONSE_GRACE_SECONDS + (0 if self._ready else STARTUP_TIMEOUT_SECONDS)
        )
        try:
            data = _read_frame(worker.stdout, time.monotonic() + timeout)
        except TimeoutError:
            self._terminate()
            return ValidationResult(
                "BundleInvalid", "The bundle validation worker did not respond in time."
            )
        self._ready = True
        return None if data is None else msgspec.json.decode(data, type=ValidationResult)

    def _spawn(self) -> subprocess.Popen[bytes]:
        self._ready = False
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the worker
        single_threaded = {"OMP_NUM_THREADS": "1", "POLARS_MAX_THREADS": "1"}
        self._worker = subprocess.Popen(
            [sys.executable, "-m", "tidemill.adapters.bundle_validation.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            env=os.environ | single_threaded | {"PYTHONPATH": os.pathsep.join(sys.path)},
            start_new_session=True,  # Ctrl-C is for the parent; closing the pipe stops it
        )
        if self._aborted:
            kill_group(self._worker)
        return self._worker

    def _terminate(self) -> None:
        worker, self._worker = self._worker, None
        if worker is not None:
            kill_group(worker)
            worker.wait()
            for pipe in (worker.stdin, worker.stdout, self._stderr):
                _close(pipe)
        self._stderr = None

    def _stderr_tail(self) -> str:
        if self._stderr is None:
            return ""
        self._stderr.seek(0)
        return "".join(f": {line[:200]}" for line in last_lines(self._stderr.read(), 1))


def _read_frame(pipe: IO[bytes], deadline: float) -> bytes | None:
    """The bytes of one response, or None at the end of the pipe. Raises `TimeoutError`."""
    data, expected = b"", 8
    while len(data) < expected:
        if not select.select([pipe], [], [], max(0.0, deadline - time.monotonic()))[0]:
            raise TimeoutError
        chunk = os.read(pipe.fileno(), expected - len(data))
        if not chunk:
            return None
        data += chunk
        if len(data) == 8 and expected == 8:
            expected += struct.unpack("<Q", data)[0]
    return data[8:]


def _close(pipe: IO[bytes] | None) -> None:
    try:
        if pipe is not None:
            pipe.close()
    except OSError:
        pass  # buffered data that a dead worker never received
