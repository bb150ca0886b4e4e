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

from tidemill.adapters.prover.answer import REMEDY, Answer
from tidemill.core.errors import BundleInvalid

START_SECONDS = 120.0
"""How long the helper may take to import what it needs, on a busy machine."""
GRACE_SECONDS = 10.0
"""How much longer than its child the helper may take to answer."""


class ForkedProver:
    """The port `Prover`. The helper starts with the first proof, or before it by `begin`, and again
    whenever it died.

    A child has `seconds` of wall clock and of CPU. Several threads may ask; they take turns.
    """

    def __init__(self, seconds: float = 20.0) -> None:
        self._seconds = seconds
        self._turn = threading.Lock()
        self._helper: subprocess.Popen[bytes] | None = None
        self._told: IO[bytes] | None = None
        self._ready = False  # whether the helper has imported what it needs
        self._ended = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def pid(self) -> int | None:
        """The helper's process id, while there is one."""
        return self._helper.pid if self._helper else None

    def prove(self, bundle: bytes) -> None:
        """Load the bundle in a child and let it answer its golden rows.

        Raises `FeatureSkew` where an answer differs, `SpecInvalid` where the feature function
        cannot be loaded, `BundleUnfit` where the child dies or takes too long.
        """
        with self._turn:
            answer = self._ask(bundle)
            if answer is None and not self._ended:  # the helper had died since the last proof
                self._stop()
                answer = self._ask(bundle)
            if self._ended:
                raise BundleInvalid("The proof was given up: the prover ends.", "Prove it again.")
            if answer is None:
                told = self._last_words()
                self._stop()
                raise BundleInvalid(f"The helper that proves bundles died{told}.", REMEDY)
        answer.settle()

    def begin(self) -> None:
        """Start the helper now, so that it is ready when the first proof comes."""
        with self._turn:
            if self._helper is None:
                self._start()

    def close(self) -> None:
        """Stop the helper; a later proof starts another one."""
        with self._turn:
            self._stop()

    def end(self) -> None:
        """Give up the proof under way, which fails then, and begin no other; any thread may ask."""
        self._ended = True
        if self._helper is not None:
            _kill(self._helper)

    def _ask(self, bundle: bytes) -> Answer | None:
        """The helper's answer; None where it is dead."""
        helper = self._helper or self._start()
        assert helper.stdin is not None
        assert helper.stdout is not None
        try:
            helper.stdin.write(struct.pack("<dQ", self._seconds, len(bundle)))
            helper.stdin.write(bundle)
            helper.stdin.flush()
        except OSError:
            return None
        seconds = self._seconds + GRACE_SECONDS + (0 if self._ready else START_SECONDS)
        try:
            data = _read_frame(helper.stdout, time.monotonic() + seconds)
        except TimeoutError:
            self._stop()
            return Answer("BundleUnfit", "The helper that proves bundles does not answer.", "")
        self._ready = True
        return None if data is None else msgspec.json.decode(data, type=Answer)

    def _start(self) -> subprocess.Popen[bytes]:
        self._ready = False
        self._told = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the helper
        one = {"OMP_NUM_THREADS": "1", "POLARS_MAX_THREADS": "1"}
        self._helper = subprocess.Popen(
            [sys.executable, "-m", "tidemill.adapters.prover.helper"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._told,
            env=os.environ | one | {"PYTHONPATH": os.pathsep.join(sys.path)},
            start_new_session=True,  # Ctrl-C is for us; the helper ends with our end of its pipe
        )
        if self._ended:
            _kill(self._helper)
        return self._helper

    def _stop(self) -> None:
        helper, self._helper = self._helper, None
        if helper is not None:
            _kill(helper)
            helper.wait()
            for pipe in (helper.stdin, helper.stdout, self._told):
                _close(pipe)
        self._told = None

    def _last_words(self) -> str:
        if self._told is None:
            return ""
        self._told.seek(0)
        lines = self._told.read().decode(errors="replace").strip().splitlines()
        return f": {lines[-1][:200]}" if lines else ""


def _read_frame(pipe: IO[bytes], deadline: float) -> bytes | None:
    """The bytes of one answer; None at the end of the pipe. Raises `TimeoutError`."""
    data, wanted = b"", 8
    while len(data) < wanted:
        if not select.select([pipe], [], [], max(0.0, deadline - time.monotonic()))[0]:
            raise TimeoutError
        part = os.read(pipe.fileno(), wanted - len(data))
        if not part:
            return None
        data += part
        if len(data) == 8 and wanted == 8:
            wanted += struct.unpack("<Q", data)[0]
    return data[8:]


def _kill(helper: subprocess.Popen[bytes]) -> None:
    """Kill the helper and its child, which would go on without it."""
    with suppress(ProcessLookupError):
        os.killpg(helper.pid, signal.SIGKILL)


def _close(pipe: IO[bytes] | None) -> None:
    try:
        if pipe is not None:
            pipe.close()
    except OSError:
        pass  # what was not written before the helper died
