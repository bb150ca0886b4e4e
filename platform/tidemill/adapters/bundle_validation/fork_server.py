"""Proves bundles in limited children, forked from a helper process that has LightGBM loaded."""

import os
import select
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from typing import IO, Self

import msgspec

from tidemill.adapters.bundle_validation.result import REMEDY, ValidationResult
from tidemill.core.errors import BundleInvalid

STARTUP_TIMEOUT_SECONDS = 120.0
"""How long the helper may take to import what it needs, on a busy machine."""
RESPONSE_GRACE_SECONDS = 10.0
"""How much longer than its child the helper may take to answer."""


class ForkServerValidator:
    """The port `Prover`. The helper starts with the first proof, or before it by `begin`, and again
    whenever it died.

    A child has `seconds` of wall clock and of CPU. Several threads may ask; they take turns.
    """

    def __init__(self, timeout: float = 20.0) -> None:
        self._timeout = timeout
        self._lock = threading.Lock()
        self._worker: subprocess.Popen[bytes] | None = None
        self._stderr: IO[bytes] | None = None
        self._ready = False  # whether the helper has imported what it needs
        self._aborted = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def pid(self) -> int | None:
        """The helper's process id, while there is one."""
        return self._worker.pid if self._worker else None

    def validate(self, bundle: bytes) -> None:
        """Load the bundle in a child and let it answer its golden rows.

        Raises `FeatureSkew` where an answer differs, `SpecInvalid` where the feature function
        cannot be loaded, `BundleUnfit` where the child dies or takes too long.
        """
        with self._lock:
            result = self._request(bundle)
            if result is None and not self._aborted:  # the helper had died since the last proof
                self._terminate()
                result = self._request(bundle)
            if self._aborted:
                raise BundleInvalid("The proof was given up: the prover ends.", "Prove it again.")
            if result is None:
                stderr_tail = self._stderr_tail()
                self._terminate()
                raise BundleInvalid(f"The helper that proves bundles died{stderr_tail}.", REMEDY)
        result.raise_for_error()

    def start(self) -> None:
        """Start the helper now, so that it is ready when the first proof comes."""
        with self._lock:
            if self._worker is None:
                self._spawn()

    def close(self) -> None:
        """Stop the helper; a later proof starts another one."""
        with self._lock:
            self._terminate()

    def abort(self) -> None:
        """Give up the proof under way, which fails then, and begin no other; any thread may ask."""
        self._aborted = True
        if self._worker is not None:
            _kill(self._worker)

    def _request(self, bundle: bytes) -> ValidationResult | None:
        """The helper's answer; None where it is dead."""
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
                "BundleUnfit", "The helper that proves bundles does not answer.", ""
            )
        self._ready = True
        return None if data is None else msgspec.json.decode(data, type=ValidationResult)

    def _spawn(self) -> subprocess.Popen[bytes]:
        self._ready = False
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the helper
        single_threaded = {"OMP_NUM_THREADS": "1", "POLARS_MAX_THREADS": "1"}
        self._worker = subprocess.Popen(
            [sys.executable, "-m", "tidemill.adapters.bundle_validation.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            env=os.environ | single_threaded | {"PYTHONPATH": os.pathsep.join(sys.path)},
            start_new_session=True,  # Ctrl-C is for us; the helper ends with our end of its pipe
        )
        if self._aborted:
            _kill(self._worker)
        return self._worker

    def _terminate(self) -> None:
        worker, self._worker = self._worker, None
        if worker is not None:
            _kill(worker)
            worker.wait()
            for pipe in (worker.stdin, worker.stdout, self._stderr):
                _close(pipe)
        self._stderr = None

    def _stderr_tail(self) -> str:
        if self._stderr is None:
            return ""
        self._stderr.seek(0)
        lines = self._stderr.read().decode(errors="replace").strip().splitlines()
        return f": {lines[-1][:200]}" if lines else ""


def _read_frame(pipe: IO[bytes], deadline: float) -> bytes | None:
    """The bytes of one answer; None at the end of the pipe. Raises `TimeoutError`."""
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


def _kill(worker: subprocess.Popen[bytes]) -> None:
    """Kill the helper and its child, which would go on without it."""
    with suppress(ProcessLookupError):
        os.killpg(worker.pid, signal.SIGKILL)


def _close(pipe: IO[bytes] | None) -> None:
    try:
        if pipe is not None:
            pipe.close()
    except OSError:
        pass  # what was not written before the helper died
