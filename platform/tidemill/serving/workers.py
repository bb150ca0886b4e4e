"""The address to listen at, and several processes that share it."""

import ctypes
import ipaddress
import logging
import os
import signal
import socket
import tempfile
import time
from collections.abc import Callable, Mapping
from types import FrameType

from tidemill.core.errors import PrerequisiteMissing, OperationNotAllowed, SpecInvalid
from tidemill.core.spec import ModelSpec
from tidemill.serving.ending import asked
from tidemill.settings import ServeSettings, Settings

logger = logging.getLogger("tidemill.serving")

_PR_SET_PDEATHSIG = 1
_SHORTEST = 2.0
"""Seconds that a worker lives at least if starting it again may help."""
_PAUSE = 1.0
"""Seconds before a worker that died is started again."""


def listen(told: ServeSettings) -> tuple[str, int]:
    """The IP address and the port to serve at, which nobody else listens at.

    Raises `Refused` for an address beyond this machine without a token, `PrerequisiteMissing`
    where the address cannot be had.
    """
    try:
        family, _, _, _, place = socket.getaddrinfo(
            told.host, told.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        address = str(place[0])
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            # Granian shares ports, so a second server would go unnoticed.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((address, told.port))
            port = int(probe.getsockname()[1])
    except OSError as error:
        raise PrerequisiteMissing(
            f"The server cannot listen at {told.host}, port {told.port}: {error.strerror}.",
            "Choose others by --host and --port.",
        ) from error
    if told.token is None and not ipaddress.ip_address(address).is_loopback:
        raise OperationNotAllowed(
            f"{told.host} can be reached from other machines, and there is no token.",
            "Set TIDEMILL_SERVE__TOKEN to a secret of 16 characters or more, or serve at "
            "127.0.0.1.",
        )
    return address, port


def run(
    settings: Settings,
    specs: Mapping[str, ModelSpec],
    address: str,
    port: int,
    listening: Callable[[], None],
) -> None:
    """Serve until SIGTERM, in this process or in as many as the settings ask for.

    `listening` is called, in whichever process, when the first connection can be made.
    """
    _check_fields(settings.serve, specs)
    count = settings.serve.workers
    if count == 1:
        from tidemill.serving.worker import work

        work(settings, specs, address, port, listening=listening)
        return
    with tempfile.TemporaryDirectory(prefix="tidemill-serve-") as folder:
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder  # read when the library is imported
        from tidemill.serving.worker import work

        def one(number: int, again: bool) -> None:
            # Who asks the first whether it is ready must not come upon another that is not.
            at_once = listening if number == 0 and not again else None
            work(settings, specs, address, port, number == 0, at_once)

        _supervise(count, one)


def _check_fields(told: ServeSettings, specs: Mapping[str, ModelSpec]) -> None:
    """Raise `SpecInvalid` where a field is to be logged that no model has."""
    for name in told.prediction_fields:
        if not any(name in spec.fields for spec in specs.values()):
            raise SpecInvalid(
                f"TIDEMILL_SERVE__PREDICTION_FIELDS names {name!r}, a field of no served model.",
                "Name fields of the models' defs.yaml.",
            )


def _supervise(count: int, work: Callable[[int, bool], None]) -> None:
    """Fork the workers, start again what dies, and end when all have ended after SIGTERM.

    This process starts no thread, so that it may fork at any time. Raises `PrerequisiteMissing`
    where a worker ends as soon as it is started.
    """
    ending = hopeless = False
    begun: dict[int, float] = {}
    running: dict[int, int] = {}

    def end(number: int, frame: FrameType | None) -> None:
        nonlocal ending
        ending = True
        for pid in running:
            os.kill(pid, signal.SIGTERM)

    def begin(number: int, again: bool) -> None:
        begun[number] = time.monotonic()
        pid = _fork(number, again, work)
        running[pid] = number
        if ending:  # the signal came before the worker was known
            os.kill(pid, signal.SIGTERM)

    for each in range(count):
        begin(each, False)
    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)
    if asked.is_set():
        end(signal.SIGTERM, None)
    while running:
        pid, status = os.wait()
        number = running.pop(pid)
        if not ending and time.monotonic() - begun[number] < _SHORTEST:
            hopeless = True
            end(0, None)
        if not ending:
            logger.error("Worker %d ended (%d); it is started again.", number, status)
            time.sleep(_PAUSE)
        if not ending:
            begin(number, True)
    if hopeless:
        raise PrerequisiteMissing(
            "A worker ended as soon as it was started.", "What was wrong stands above."
        )


def _fork(number: int, again: bool, work: Callable[[int, bool], None]) -> int:
    """A worker that ends with this process; its process id."""
    parent = os.getpid()
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() == parent:
            work(number, again)
            code = 0
    except BaseException:
        logger.exception("Worker %d failed.", number)
    finally:
        os._exit(code)
