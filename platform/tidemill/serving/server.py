"""Answer requests until SIGTERM: then not ready, then no new ones, then the end."""

import asyncio
import logging
import signal
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

from granian.constants import HTTPModes, Interfaces
from granian.http import HTTP1Settings
from granian.server.embed import Server

from tidemill.core.errors import PrerequisiteMissing
from tidemill.serving.app import App
from tidemill.serving.shutdown import shutdown_requested
from tidemill.settings import ServeSettings

logger = logging.getLogger("tidemill.serving")

_MAX_BUFFER_BYTES = 65_536
"""Bytes that a connection may hold in memory for the head of a request."""
_POLL_INTERVAL_SECONDS = 0.02


async def serve(
    app: App,
    address: str,
    port: int,
    settings: ServeSettings,
    on_listening: Callable[[], None] | None = None,
) -> None:
    """Serve at an IP address and a port until SIGTERM or SIGINT.

    `listening` is called as soon as it listens; without it, it listens when it is ready. Raises
    `PrerequisiteMissing` where the port cannot be listened at.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for signal_number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signal_number, stop.set)
    if shutdown_requested.is_set():
        return
    while not (on_listening or app.status.ready or stop.is_set()):
        await asyncio.sleep(_POLL_INTERVAL_SECONDS)
    server = _make_server(app, address, port, settings)
    server_task = asyncio.create_task(server.serve())
    overdue_task = asyncio.create_task(app.limits.cancel_overdue())
    stop_task = asyncio.create_task(stop.wait())
    if on_listening is not None:
        asyncio.create_task(
            _notify_when_listening(on_listening, address, port, (server_task, stop_task))
        )
    await asyncio.wait((server_task, stop_task), return_when=asyncio.FIRST_COMPLETED)
    if server_task.done():
        raise PrerequisiteMissing(
            f"The server cannot listen at {address}, port {port}: {server_task.exception()}.",
            "Choose another by --port.",
        )
    app.status.draining = True
    logger.info("Ending: not ready any more; requests under way are finished.")
    await asyncio.sleep(settings.drain_seconds)
    server.stop()  # type: ignore[no-untyped-call]
    with suppress(TimeoutError):
        await asyncio.wait_for(server_task, settings.shutdown_grace_seconds)
    overdue_task.cancel()
    logger.info("Ended, with %d requests under way.", app.in_flight)


async def _notify_when_listening(
    on_listening: Callable[[], None],
    address: str,
    port: int,
    end_tasks: Iterable["asyncio.Task[Any]"],
) -> None:
    """Call `listening` when a connection can be made: Granian does not say so."""
    while not any(task.done() for task in end_tasks):
        with suppress(OSError):
            _, writer = await asyncio.open_connection(address, port)
            writer.close()
            on_listening()
            return
        await asyncio.sleep(_POLL_INTERVAL_SECONDS)


def _make_server(app: App, address: str, port: int, settings: ServeSettings) -> Server:
    http1 = HTTP1Settings(
        header_read_timeout=round(settings.header_timeout * 1000), max_buffer_size=_MAX_BUFFER_BYTES
    )
    return Server(
        app,
        address=address,
        port=port,
        interface=Interfaces.RSGI,
        http=HTTPModes.http1,
        websockets=False,
        backlog=1024,
        backpressure=settings.max_connections,
        http1_settings=http1,
        log_enabled=False,
    )
