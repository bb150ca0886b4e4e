"""A load client: sends requests at a constant rate until its standard input ends.

    python -m tidemill.demo.load_client

The first line of the input is a `LoadSpec` as JSON; the output is the list of all `RequestResult`s
as JSON. The client waits until the server is ready, and then sends each request without waiting for
the response to the previous one. After the end of the input it sends a few more requests, so that a
model that was deployed at the last moment answers, too.
"""

import asyncio
import sys
import time

import aiohttp
import msgspec

from tidemill.demo.traffic import RequestResult

_POLL_INTERVAL_SECONDS, _READY_TIMEOUT_SECONDS = 0.05, 30
"""The interval of the readiness checks, and for how long they go on after the input has ended."""
_FINAL_REQUESTS = 10
"""Requests that are sent after the end of the input."""
_REQUEST_TIMEOUT = aiohttp.ClientTimeout(total=10)
_KEEPALIVE_SECONDS = 2
"""Seconds after which an idle connection is not reused; less than the server's timeout."""
_MAX_SPEC_BYTES = 64_000_000


class LoadSpec(msgspec.Struct, frozen=True):
    """The server and model, the rows to send in turn, the requests per second, and the token."""

    url: str
    model: str
    rows: list[msgspec.Raw]
    rate: float
    token: str | None = None


class _PredictResponse(msgspec.Struct):
    digest: str
    version: int


_decode = msgspec.json.Decoder(_PredictResponse).decode


async def run_load(spec: LoadSpec, stop: asyncio.Event) -> list[RequestResult]:
    """Send requests until `stop` is set, and `_FINAL_REQUESTS` more; the results in sending order.

    Waits for the server first; the list is empty if it never becomes ready.
    """
    headers = {"authorization": f"Bearer {spec.token}"} if spec.token else {}
    bodies = [b'{"rows": [%b]}' % row for row in spec.rows]
    connector = aiohttp.TCPConnector(keepalive_timeout=_KEEPALIVE_SECONDS)
    async with aiohttp.ClientSession(
        spec.url, headers=headers, connector=connector, timeout=_REQUEST_TIMEOUT
    ) as session:
        if not await _wait_until_ready(session, stop):
            return []
        requests: list[asyncio.Task[RequestResult]] = []
        started_at, remaining = time.perf_counter(), _FINAL_REQUESTS
        while remaining:
            await asyncio.sleep(started_at + len(requests) / spec.rate - time.perf_counter())
            body = bodies[len(requests) % len(bodies)]
            requests.append(asyncio.create_task(_send_request(session, spec.model, body)))
            remaining -= stop.is_set()
        return list(await asyncio.gather(*requests))


async def _wait_until_ready(session: aiohttp.ClientSession, stop: asyncio.Event) -> bool:
    """Wait until the server is ready; False if it is not, some time after `stop` was set."""
    attempts_left = int(_READY_TIMEOUT_SECONDS / _POLL_INTERVAL_SECONDS)
    while not await _is_ready(session):
        attempts_left -= stop.is_set()
        if not attempts_left:
            return False
        await asyncio.sleep(_POLL_INTERVAL_SECONDS)
    return True


async def _is_ready(session: aiohttp.ClientSession) -> bool:
    try:
        async with session.get("/v2/health/ready") as response:
            return response.status == 200
    except aiohttp.ClientConnectionError:
        return False


async def _send_request(session: aiohttp.ClientSession, model: str, body: bytes) -> RequestResult:
    sent_at, started = time.time(), time.perf_counter()
    try:
        async with session.post(f"/models/{model}/predict", data=body) as response:
            payload = await response.read()
    except (aiohttp.ClientError, TimeoutError) as error:
        return RequestResult(
            sent_at, time.perf_counter() - started, error=f"{type(error).__name__}: {error}"
        )
    seconds = time.perf_counter() - started
    if response.status != 200:
        return RequestResult(sent_at, seconds, error=f"{response.status}: {payload[:200].decode()}")
    prediction = _decode(payload)
    return RequestResult(sent_at, seconds, prediction.version, prediction.digest)


async def _main() -> None:
    reader = asyncio.StreamReader(limit=_MAX_SPEC_BYTES)
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    spec = msgspec.json.decode(await reader.readline(), type=LoadSpec)
    stop = asyncio.Event()
    load_task = asyncio.create_task(run_load(spec, stop))
    await reader.read()
    stop.set()
    sys.stdout.buffer.write(msgspec.json.encode(await load_task))


if __name__ == "__main__":
    asyncio.run(_main())
