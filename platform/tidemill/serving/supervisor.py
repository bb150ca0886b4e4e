"""The address to listen on, and the worker processes that share it."""

import ipaddress
import logging
import os
import signal
import socket
import tempfile
import time
from collections.abc import Callable, Mapping
from types import FrameType

from tidemill.core.errors import OperationNotAllowed, PrerequisiteMissing, SpecInvalid
from tidemill.core.spec import ModelSpec
from tidemill.processes import terminate_with_parent
from tidemill.serving.shutdown import shutdown_requested
from tidemill.settings import Settings
from tidemill.settings_groups import ServeSettings

logger = logging.getLogger("tidemill.serving")

_MIN_LIFETIME_SECONDS = 2.0
"""A worker that exits sooner is not restarted, because it would fail again."""
_RESTART_DELAY_SECONDS = 1.0
"""Seconds before a worker that exited is restarted."""


def resolve_address(settings: ServeSettings) -> tuple[str, int]:
    """The IP address and the port to serve on, on which no other process listens.

    Raises `OperationNotAllowed` for a non-loopback address without a token, `PrerequisiteMissing`
    if the address is not available.
    """
    try:
        family, _, _, _, socket_address = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        address = str(socket_address[0])
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            # Granian shares ports, so a second server on the port would go unnoticed.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((address, settings.port))
            port = int(probe.getsockname()[1])
    except OSError as error:
        raise PrerequisiteMissing(
            f"The server cannot listen on {settings.host}, port {settings.port}: {error.strerror}.",
            "Choose another address with --host and --port.",
        ) from error
    if settings.token is None and not ipaddress.ip_address(address).is_loopback:
        raise OperationNotAllowed(
            f"{settings.host} is reachable from other machines, and no token is configured.",
            "Set TIDEMILL_SERVE__TOKEN to a secret of at least 16 characters, or serve on "
            "127.0.0.1.",
        )
    return address, port


def run(
    settings: Settings,
    specs: Mapping[str, ModelSpec],
    address: str,
    port: int,
    on_listening: Callable[[], None],
) -> None:
    """Serve until SIGTERM, in this process or in as many workers as the settings configure.

    `on_listening` is called, in whichever process, once the first connection can be made.
    """
    _check_prediction_fields(settings.serve, specs)
    count = settings.serve.workers
    if count == 1:
        from tidemill.serving.worker import run_worker

        run_worker(settings, specs, address, port, on_listening=on_listening)
        return
    with tempfile.TemporaryDirectory(prefix="tidemill-serve-") as folder:
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder  # read when prometheus_client is imported
        from tidemill.serving.worker import run_worker

        def run_one(number: int, is_restart: bool) -> None:
            # The others listen only when they are ready: once the first one is, no probe reaches
            # a worker that is not.
            callback = on_listening if number == 0 and not is_restart else None
            run_worker(settings, specs, address, port, number == 0, callback)

        _supervise(count, run_one)


def _check_prediction_fields(settings: ServeSettings, specs: Mapping[str, ModelSpec]) -> None:
    """Raise `SpecInvalid` if a field to be logged is not a field of any model."""
    for name in settings.prediction_fields:
        if not any(name in spec.fields for spec in specs.values()):
            raise SpecInvalid(
                f"TIDEMILL_SERVE__PREDICTION_FIELDS names {name!r}, which no served model has.",
                "Use fields of the models' defs.yaml.",
            )


def _supervise(count: int, target: Callable[[int, bool], None]) -> None:
    """Fork the workers, restart those that exit, and return when all have ended after SIGTERM.

    This process starts no thread, so that it may fork at any time. Raises `PrerequisiteMissing` if
    a worker exits as soon as it is started.
    """
    stopping = start_failed = False
    started_at: dict[int, float] = {}
    running: dict[int, int] = {}

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal stopping
        stopping = True
        for pid in running:
            os.kill(pid, signal.SIGTERM)

    def start(number: int, is_restart: bool) -> None:
        started_at[number] = time.monotonic()
        pid = _fork(number, is_restart, target)
        running[pid] = number
        if stopping:  # the signal arrived before the worker was registered
            os.kill(pid, signal.SIGTERM)

    for index in range(count):
        start(index, False)
    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    if shutdown_requested.is_set():
        stop(signal.SIGTERM, None)
    while running:
        pid, status = os.wait()
        number = running.pop(pid)
        if not stopping and time.monotonic() - started_at[number] < _MIN_LIFETIME_SECONDS:
            start_failed = True
            stop(0, None)
        if not stopping:
            logger.error("Worker %d exited (%d); it is being restarted.", number, status)
            time.sleep(_RESTART_DELAY_SECONDS)
        if not stopping:
            start(number, True)
    if start_failed:
        raise PrerequisiteMissing(
            "A worker exited as soon as it was started.", "The log above has its error."
        )


def _fork(number: int, is_restart: bool, target: Callable[[int, bool], None]) -> int:
    """Fork a worker that ends with this process; its process id."""
    parent = os.getpid()
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        terminate_with_parent()
        if os.getppid() == parent:
            target(number, is_restart)
            code = 0
    except BaseException:
        logger.exception("Worker %d failed.", number)
    finally:
        os._exit(code)
