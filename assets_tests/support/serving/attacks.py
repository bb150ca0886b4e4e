"""Malicious clients in a separate process: slow, endless, and thousands of idle ones."""

import asyncio
import multiprocessing
import resource
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing.synchronize import Event
from urllib.parse import urlsplit

from support.processes.commands import wait_until
from support.serving.load_generator import encode_head

_FORK_CONTEXT = multiprocessing.get_context("forkserver")
_CONNECT_BATCH_SIZE = 100
_TIMEOUT_SECONDS = 120.0

GIGABYTE = 1_000_000_000
MILLION = 1_000_000


@contextmanager
def attacking_clients(
    url: str, path: str, idle: int = 0, slow: int = 0, endless: int = 0
) -> Iterator[None]:
    """Attack a server with concurrent connections until the end of the block.

    `idle` connections send nothing, `slow` ones drip a head or a body, `endless` ones repeatedly
    send a gigabyte or a million chunks.
    """
    ready, stop = _FORK_CONTEXT.Event(), _FORK_CONTEXT.Event()
    args = (url, path, idle, slow, endless, ready, stop)
    process = _FORK_CONTEXT.Process(target=_attack, args=args)
    process.start()
    try:
        wait_until(lambda: ready.is_set() or process.exitcode is not None, _TIMEOUT_SECONDS)
        assert process.exitcode is None
        yield
        stop.set()
        process.join(_TIMEOUT_SECONDS)
        assert process.exitcode == 0
    finally:
        process.kill()


def _attack(
    url: str, path: str, idle: int, slow: int, endless: int, ready: Event, stop: Event
) -> None:
    _, hard_limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard_limit, hard_limit))
    asyncio.run(_Attack(url, path).run(idle, slow, endless, ready, stop))


class _Attack:
    def __init__(self, url: str, path: str) -> None:
        split = urlsplit(url)
        self._address, self._path = (split.hostname, split.port), path

    async def run(self, idle: int, slow: int, endless: int, ready: Event, stop: Event) -> None:
        connections = []
        for _ in range(0, idle, _CONNECT_BATCH_SIZE):
            pending = (asyncio.open_connection(*self._address) for _ in range(_CONNECT_BATCH_SIZE))
            connections += await asyncio.gather(*pending)
        coroutines = [self._slow(number) for number in range(slow)]
        coroutines += [self._endless(number) for number in range(endless)]
        tasks = [asyncio.create_task(work) for work in coroutines]
        await asyncio.sleep(0.5)
        ready.set()
        while not stop.is_set():
            await asyncio.sleep(0.05)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for _, writer in connections:
            writer.transport.abort()

    async def _slow(self, number: int) -> None:
        """Send a head or a body byte by byte; reconnect when disconnected."""
        full_head = encode_head(self._path, **{"content-length": "1000"})
        prefix = full_head[:20] if number % 2 else full_head
        while True:
            with suppress(OSError):
                _, writer = await asyncio.open_connection(*self._address)
                writer.write(prefix)
                while not writer.transport.is_closing():
                    writer.write(b"x")
                    await writer.drain()
                    await asyncio.sleep(0.5)

    async def _endless(self, number: int) -> None:
        """Send a gigabyte in large chunks, or a million one-byte chunks; repeat when refused."""
        chunk = b"10000\r\n" + b"x" * 65_536 + b"\r\n" if number % 2 else b"1\r\nx\r\n" * 1_000
        times = GIGABYTE // 65_536 if number % 2 else MILLION // 1_000
        while True:
            with suppress(OSError):
                _, writer = await asyncio.open_connection(*self._address)
                writer.write(encode_head(self._path, **{"transfer-encoding": "chunked"}))
                for _ in range(times):
                    if writer.transport.is_closing():
                        break
                    writer.write(chunk)
                    await writer.drain()
            await asyncio.sleep(0.2)
