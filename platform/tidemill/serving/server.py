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
from tidemill.serving.ending import asked
from tidemill.settings import ServeSettings

logger = logging.getLogger("tidemill.serving")

_BUFFER = 65_536
"""Bytes that a connection may hold in memory for the head of a request."""
_LOOK = 0.02


async def serve(
    app: App,
    address: str,
    port: int,
    told: ServeSettings,
    listening: Callable[[], None] | None = None,
) -> None:
    """Serve at an IP address and a port until SIGTERM or SIGINT.

    `listening` is called as soon as it listens; without it, it listens when it is ready. Raises
    `PrerequisiteMissing` where the port cannot be listened at.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    if asked.is_set():
        return
    while not (listening or app.status.ready or stop.is_set()):
        await asyncio.sleep(_LOOK)
    server = _server(app, address, port, told)
    serving = asyncio.create_task(server.serve())
    watching = asyncio.create_task(app.bounds.watch())
    stopping = asyncio.create_task(stop.wait())
    if listening is not None:
        asyncio.create_task(_tell(listening, address, port, (serving, stopping)))  # noqa: RUF006
    await asyncio.wait((serving, stopping), return_when=asyncio.FIRST_COMPLETED)
    if serving.done():
        raise PrerequisiteMissing(
            f"The server cannot listen at {address}, port {port}: {serving.exception()}.",
            "Choose another by --port.",
        )
    app.status.draining = True
    logger.info("Ending: not ready any more; requests under way are finished.")
    await asyncio.sleep(told.drain_seconds)
    server.stop()  # type: ignore[no-untyped-call]
    with suppress(TimeoutError):
        await asyncio.wait_for(serving, told.shutdown_grace_seconds)
    watching.cancel()
    logger.info("Ended, with %d requests under way.", app.under_way)


async def _tell(
    listening: Callable[[], None], address: str, port: int, ends: Iterable["asyncio.Task[Any]"]
) -> None:
    """Call `listening` when a connection can be made: Granian does not say so."""
    while not any(end.done() for end in ends):
        with suppress(OSError):
            _, writer = await asyncio.open_connection(address, port)
            writer.close()
            listening()
            return
        await asyncio.sleep(_LOOK)


def _server(app: App, address: str, port: int, told: ServeSettings) -> Server:
    http1 = HTTP1Settings(
        header_read_timeout=round(told.header_timeout * 1000), max_buffer_size=_BUFFER
    )
    return Server(
        app,
        address=address,
        port=port,
        interface=Interfaces.RSGI,
        http=HTTPModes.http1,
        websockets=False,
        backlog=1024,
        backpressure=told.max_connections,
        http1_settings=http1,
        log_enabled=False,
    )
