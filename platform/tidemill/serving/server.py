"""Serve until SIGTERM; then report not ready, stop accepting requests, and shut down."""

import asyncio
import logging
import signal
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from granian.constants import HTTPModes, Interfaces
from granian.http import HTTP1Settings
from granian.server.embed import Server

from tidemill.core.errors import PrerequisiteMissing
from tidemill.serving.app import App
from tidemill.serving.config import ServerConfig
from tidemill.serving.shutdown import shutdown_requested
from tidemill.settings_groups import ServeSettings

logger = logging.getLogger("tidemill.serving")

_MAX_BUFFER_BYTES = 65_536
"""Bytes per connection that are buffered for the head of a request."""
_POLL_INTERVAL_SECONDS = 0.02


async def serve(app: App, config: ServerConfig, listen_before_ready: bool) -> None:
    """Serve until SIGTERM or SIGINT.

    With `listen_before_ready`, the server listens at once and calls `on_listening` of the
    configuration; otherwise it starts to listen when it is ready. Raises `PrerequisiteMissing` if
    it cannot listen on the port.
    """
    stop = _stop_event()
    if shutdown_requested.is_set():
        return
    while not (listen_before_ready or app.status.ready or stop.is_set()):
        await asyncio.sleep(_POLL_INTERVAL_SECONDS)
    server = _make_server(app, config)
    server_task = asyncio.create_task(server.serve())
    stop_task = asyncio.create_task(stop.wait())
    background_tasks = [asyncio.create_task(app.limits.cancel_overdue())]
    if listen_before_ready:
        notify = _notify_when_listening(config, (server_task, stop_task))
        background_tasks.append(asyncio.create_task(notify))
    await asyncio.wait((server_task, stop_task), return_when=asyncio.FIRST_COMPLETED)
    if server_task.done():
        raise PrerequisiteMissing(
            f"The server cannot listen on {config.address}, port {config.port}: "
            f"{server_task.exception()}.",
            "Choose another port with --port.",
        )
    await _shut_down(app, server, server_task, config.settings)
    for task in background_tasks:
        task.cancel()
    logger.info("Shut down with %d requests in flight.", app.in_flight)


def _stop_event() -> asyncio.Event:
    """An event that SIGTERM and SIGINT set."""
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    for signal_number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signal_number, stop.set)
    return stop


async def _shut_down(
    app: App, server: Server, server_task: "asyncio.Task[None]", settings: ServeSettings
) -> None:
    """Report not ready for a while, then accept no request and finish those in flight."""
    app.status.draining = True
    logger.info("Shutting down: no longer ready; requests in flight are finished.")
    await asyncio.sleep(settings.drain_seconds)
    server.stop()  # type: ignore[no-untyped-call]
    with suppress(TimeoutError):
        await asyncio.wait_for(server_task, settings.shutdown_grace_seconds)


async def _notify_when_listening(
    config: ServerConfig, end_tasks: Iterable["asyncio.Task[Any]"]
) -> None:
    """Call `on_listening` once a connection can be made; Granian has no hook for this."""
    while not any(task.done() for task in end_tasks):
        with suppress(OSError):
            _, writer = await asyncio.open_connection(config.address, config.port)
            writer.close()
            config.on_listening(config.address, config.port)
            return
        await asyncio.sleep(_POLL_INTERVAL_SECONDS)


def _make_server(app: App, config: ServerConfig) -> Server:
    settings = config.settings
    http1 = HTTP1Settings(
        header_read_timeout=round(settings.header_timeout * 1000), max_buffer_size=_MAX_BUFFER_BYTES
    )
    return Server(
        app,
        address=config.address,
        port=config.port,
        interface=Interfaces.RSGI,
        http=HTTPModes.http1,
        websockets=False,
        backlog=1024,
        backpressure=settings.max_connections,
        http1_settings=http1,
        log_enabled=False,
    )
