"""Hostile clients get a 4xx or are disconnected; memory and other clients' waits are bounded."""

import json
import re
import select
import socket
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from urllib.parse import urlsplit

import psutil
import pytest

from faults.deployments import deploy_windows
from support.models import oracle
from support.models.harness import ModelHarness, model_name_for
from support.processes.commands import wait_until
from support.serving.attacks import GIGABYTE, MILLION, attacking_clients
from support.serving.load_generator import encode_head, encode_request
from support.serving.prediction_server import ROW, PredictionServer, running_server

pytestmark = pytest.mark.faults

REQUEST_TIMEOUT_SECONDS = 3
MAX_MEMORY_GROWTH_MB = 100
"""The MB by which the server's memory may grow, whatever it receives."""


@pytest.fixture(scope="module")
def server(kafka: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PredictionServer]:
    """A server whose timeouts are `REQUEST_TIMEOUT_SECONDS`; at the end it must be healthy."""
    harness = ModelHarness(kafka, tmp_path_factory.mktemp("hostile"), model_name_for("hostile"))
    harness.define()
    harness.create_topic()
    with running_server(
        deploy_windows(harness),
        body_timeout=REQUEST_TIMEOUT_SECONDS,
        header_timeout=REQUEST_TIMEOUT_SECONDS,
    ) as running:
        yield running
        assert "Traceback" not in running.output()
        assert running.terminate() == 0
    oracle.assert_consistent(harness)


@pytest.fixture(autouse=True)
def assert_memory_bounded(server: PredictionServer) -> Iterator[None]:
    """After each attack the server must respond as before and not use more memory."""
    process = psutil.Process(server.process.pid)
    before, answer = process.memory_info().rss, server.predict(ROW).json()
    yield
    assert server.predict(ROW).json() == answer
    assert process.memory_info().rss < before + MAX_MEMORY_GROWTH_MB * 1_000_000


def predict_path(server: PredictionServer) -> str:
    return f"/models/{server.harness.model}/predict"


def connect(server: PredictionServer) -> socket.socket:
    url = urlsplit(server.url)
    connection = socket.create_connection((str(url.hostname), url.port))
    connection.settimeout(20)
    return connection


def response_status(connection: socket.socket) -> int | None:
    """The status of the complete response; None if the server disconnects."""
    with closing(connection), connection.makefile("rb") as response:
        try:
            line = response.readline()
            size = 0
            while (header := response.readline().strip().lower()) != b"":
                if header.startswith(b"content-length:"):
                    size = int(header.split(b":")[1])
            body = response.read(size)
        except ConnectionResetError:
            return None
    if not line:
        return None
    if body:
        assert json.loads(body)["error"]["remedy"]
    return int(line.split()[1])


@pytest.mark.parametrize(
    "headers",
    [
        {"content-length": "abc"},
        {"content-length": "-1"},
        {"content-length": "+5"},
        {"content-length": "1e3"},
        {"content-length": "9" * 30},
        {"content-length": ""},
        {"content-length": "5, 6"},
        {"content-length": "5\r\ncontent-length: 6"},
        {"transfer-encoding": "chunked, gzip"},
        {"transfer-encoding": "unheard-of"},
        {"x-long": "x" * 100_000},
    ],
    ids=str,
)
def test_a_malformed_head_is_refused_at_once(
    server: PredictionServer, headers: dict[str, str]
) -> None:
    """Fault 32."""
    connection = connect(server)
    started_at = time.monotonic()
    connection.sendall(encode_head(predict_path(server), **headers) + b"x")
    assert response_status(connection) in range(400, 500)
    assert time.monotonic() - started_at < 2


@pytest.mark.parametrize("chunk", [b"zz\r\n", b"-1\r\nx\r\n", b"f" * 17 + b"\r\n", b"1\r\nxyz"])
def test_a_malformed_chunk_is_refused(server: PredictionServer, chunk: bytes) -> None:
    """Fault 32."""
    connection = connect(server)
    connection.sendall(
        encode_head(predict_path(server), **{"transfer-encoding": "chunked"}) + chunk
    )
    assert response_status(connection) in (None, 400)


def test_an_announced_gigabyte_is_refused_before_it_is_sent(
    server: PredictionServer,
) -> None:
    """Fault 32."""
    connection = connect(server)
    connection.sendall(encode_head(predict_path(server), **{"content-length": str(GIGABYTE)}))
    assert response_status(connection) == 413


@pytest.mark.parametrize(
    ("chunk", "total"),
    [(b"100000\r\n" + b"x" * (1 << 20) + b"\r\n", GIGABYTE >> 20), (b"1\r\nx\r\n", MILLION)],
    ids=["a gigabyte", "a million chunks"],
)
def test_a_body_without_length_is_refused_at_the_size_limit(
    server: PredictionServer, chunk: bytes, total: int
) -> None:
    """Fault 32."""
    before, connection, sent = count_oversized(server), connect(server), 0
    connection.sendall(encode_head(predict_path(server), **{"transfer-encoding": "chunked"}))
    batch_size = max(1, 1_000 // len(chunk))
    with suppress(OSError):
        while sent < total and not select.select([connection], [], [], 0)[0]:
            connection.sendall(chunk * batch_size)
            sent += batch_size
    assert response_status(connection) in (
        None,
        413,
    )  # excess bytes may reset the connection before the response
    assert count_oversized(server) == before + 1
    assert sent < total


def count_oversized(server: PredictionServer) -> int:
    """The number of requests refused because of their size."""
    match = re.search(
        r'^tidemill_requests_total{.*"413"} (\d+)', server.get("/metrics").text, re.MULTILINE
    )
    return int(match[1]) if match else 0


@pytest.mark.parametrize("part", ["nothing", "half a head", "half a body"])
def test_a_slow_client_is_disconnected(server: PredictionServer, part: str) -> None:
    """Fault 32: even if bytes keep arriving."""
    full_request = encode_request(predict_path(server), {"rows": [ROW]})
    prefix = {"nothing": b"", "half a head": full_request[:30], "half a body": full_request[:-30]}[
        part
    ]
    connection, started_at = connect(server), time.monotonic()
    connection.sendall(prefix)
    with suppress(OSError):
        while (
            not select.select([connection], [], [], 0.4)[0] and time.monotonic() < started_at + 20
        ):
            connection.sendall(b" " if prefix else b"")
    duration = time.monotonic() - started_at
    assert response_status(connection) == (408 if part == "half a body" else None)
    assert REQUEST_TIMEOUT_SECONDS * 0.9 < duration < REQUEST_TIMEOUT_SECONDS + 5


def test_a_client_that_disconnects_early_leaks_nothing(server: PredictionServer) -> None:
    """Fault 32: a thousand times, as a load balancer that times out."""
    process = psutil.Process(server.process.pid)
    files = process.num_fds()
    for number in range(1_000):
        with connect(server) as connection:
            connection.sendall(
                encode_request(predict_path(server), {"rows": [ROW]})[: 10 + number % 250]
            )
    wait_until(lambda: process.num_fds() <= files + 2)


def send_requests(server: PredictionServer, count: int = 1_000) -> None:
    """Send requests as a healthy client; all must succeed."""
    for _ in range(count):
        assert server.predict(ROW).status_code == 200


def test_thousands_of_idle_and_slow_clients_block_no_other_client(harness: ModelHarness) -> None:
    """Fault 32: a healthy client gets every response, and memory is bounded.

    `platform/benchmarks/serving_attacked.py` measures how much longer that client waits.
    """
    deploy_windows(harness)
    with running_server(harness) as server:
        process = psutil.Process(server.process.pid)
        before = process.memory_info().rss
        send_requests(server)
        with attacking_clients(server.url, predict_path(server), idle=10_000, slow=200):
            assert process.num_fds() > 10_000
            send_requests(server)
            assert process.memory_info().rss < before + 3 * MAX_MEMORY_GROWTH_MB * 1_000_000
        wait_until(lambda: process.num_fds() < 1_000)
        with attacking_clients(server.url, predict_path(server), endless=4):
            send_requests(server)
            assert process.memory_info().rss < before + 3 * MAX_MEMORY_GROWTH_MB * 1_000_000
        assert server.terminate() == 0
    oracle.assert_consistent(harness)
