"""A client in a process of its own: asks at a steady rate until its standard input ends.

    python -m tidemill.serving.client

The first line of its input are `Orders` as JSON; all `Answer`s are its output, as JSON. It waits
until the server is ready, and then for no answer before it asks again. After the end of its input
it asks a few times more, so that a model which came at the last moment answers, too.
"""

import asyncio
import sys
import time

import aiohttp
import msgspec

from tidemill.serving.answers import Answer

_LOOK, _PATIENCE = 0.05, 30
"""Seconds between looks whether the server is ready; and how long to go on after the end."""
_LAST = 10
"""Requests after the end of the input."""
_TIMEOUT = aiohttp.ClientTimeout(total=10)
_IDLE = 2
"""Seconds after which an idle connection is not used again: sooner than a server ends it."""
_ORDERS_BYTES = 64_000_000


class Orders(msgspec.Struct, frozen=True):
    """Whom to ask, what, in turn, how many times a second, and with which token."""

    url: str
    model: str
    rows: list[msgspec.Raw]
    rate: float
    token: str | None = None


class _Told(msgspec.Struct):
    digest: str
    version: int


_decode = msgspec.json.Decoder(_Told).decode


async def ask(orders: Orders, stop: asyncio.Event) -> list[Answer]:
    """Ask from when the server is ready until `stop` is set, and `_LAST` times more; what came, in
    the order of asking. Nothing comes of a server that is never ready."""
    headers = {"authorization": f"Bearer {orders.token}"} if orders.token else {}
    bodies = [b'{"rows": [%b]}' % row for row in orders.rows]
    connector = aiohttp.TCPConnector(keepalive_timeout=_IDLE)
    async with aiohttp.ClientSession(
        orders.url, headers=headers, connector=connector, timeout=_TIMEOUT
    ) as session:
        if not await _awaited(session, stop):
            return []
        asked: list[asyncio.Task[Answer]] = []
        begun, left = time.perf_counter(), _LAST
        while left:
            await asyncio.sleep(begun + len(asked) / orders.rate - time.perf_counter())
            body = bodies[len(asked) % len(bodies)]
            asked.append(asyncio.create_task(_answer(session, orders.model, body)))
            left -= stop.is_set()
        return list(await asyncio.gather(*asked))


async def _awaited(session: aiohttp.ClientSession, stop: asyncio.Event) -> bool:
    """Wait until the server is ready; False where it is not, long after `stop` was set."""
    looks = int(_PATIENCE / _LOOK)
    while not await _ready(session):
        looks -= stop.is_set()
        if not looks:
            return False
        await asyncio.sleep(_LOOK)
    return True


async def _ready(session: aiohttp.ClientSession) -> bool:
    try:
        async with session.get("/v2/health/ready") as reply:
            return reply.status == 200
    except aiohttp.ClientConnectionError:
        return False


async def _answer(session: aiohttp.ClientSession, model: str, body: bytes) -> Answer:
    asked, begun = time.time(), time.perf_counter()
    try:
        async with session.post(f"/models/{model}/predict", data=body) as reply:
            told = await reply.read()
    except (aiohttp.ClientError, TimeoutError) as error:
        return Answer(asked, time.perf_counter() - begun, fault=f"{type(error).__name__}: {error}")
    seconds = time.perf_counter() - begun
    if reply.status != 200:
        return Answer(asked, seconds, fault=f"{reply.status}: {told[:200].decode()}")
    named = _decode(told)
    return Answer(asked, seconds, named.version, named.digest)


async def _main() -> None:
    orders_come = asyncio.StreamReader(limit=_ORDERS_BYTES)
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(orders_come), sys.stdin)
    orders = msgspec.json.decode(await orders_come.readline(), type=Orders)
    stop = asyncio.Event()
    asking = asyncio.create_task(ask(orders, stop))
    await orders_come.read()
    stop.set()
    sys.stdout.buffer.write(msgspec.json.encode(await asking))


if __name__ == "__main__":
    asyncio.run(_main())
