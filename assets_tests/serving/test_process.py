"""The server as a process: authentication, shutdown, the local copy, and several workers."""

import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from confluent_kafka import Consumer, TopicPartition

from serving.ledger_fixture import LedgerFixture
from support.models.harness import ModelHarness
from support.processes.commands import run_command, wait_until
from support.serving.load_generator import LoadGenerator
from support.serving.prediction_server import (
    ROW,
    PredictionServer,
    refuses_connections,
    running_server,
)
from tidemill.local import broker

TOKEN = "a secret of some length"


@contextmanager
def partial_request(server: PredictionServer, sent_bytes: int = 10) -> Iterator[socket.socket]:
    """A request of which only the beginning is sent; `finish_request` sends the rest."""
    body = json.dumps({"rows": [ROW]}).encode()
    host, port = server.url.removeprefix("http://").split(":")
    path = f"/models/{server.harness.model}/predict"
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
    head += f"Authorization: Bearer {TOKEN}\r\n"
    with socket.create_connection((host, int(port)), 30) as client:
        client.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body[:sent_bytes])
        yield client


def finish_request(client: socket.socket, sent_bytes: int = 10) -> bytes:
    """Send the rest of the body; the whole response."""
    client.sendall(json.dumps({"rows": [ROW]}).encode()[sent_bytes:])
    return b"".join(iter(lambda: client.recv(65_536), b""))


def test_a_server_on_a_public_address_does_not_start_without_a_token(
    deployed_harness: ModelHarness,
) -> None:
    result = run_command(
        deployed_harness.env, "tidemill", "serve", "--host", "0.0.0.0", "--port", "0"
    )
    assert result.returncode == 1
    assert "TIDEMILL_SERVE__TOKEN" in result.stderr


def test_a_port_in_use_is_named(server: PredictionServer) -> None:
    port = server.url.rsplit(":", 1)[1]
    result = run_command(server.harness.env, "tidemill", "serve", "--port", port)
    assert result.returncode == 1
    assert f"cannot listen on 127.0.0.1, port {port}" in result.stderr


@pytest.fixture(scope="module")
def strict_server(deployed_harness: ModelHarness) -> Iterator[PredictionServer]:
    """A server on all addresses, with a token and short timeouts."""
    settings = {"token": TOKEN, "host": "0.0.0.0", "body_timeout": 1, "header_timeout": 1}
    with running_server(deployed_harness, name="strict", **settings) as running:
        running.url = running.url.replace("0.0.0.0", "127.0.0.1")
        yield running


def test_the_token_is_required_on_every_route_except_the_probes(
    strict_server: PredictionServer,
) -> None:
    paths = ["/", "/docs", "/openapi.json", "/models", "/metrics", "/v2", "/nowhere"]
    assert [strict_server.get(path).status_code for path in paths] == [401] * len(paths)
    assert strict_server.predict(ROW).status_code == 401
    wrong_token = {"Authorization": f"Bearer {TOKEN}?"}
    assert strict_server.get("/models", headers=wrong_token).status_code == 401
    probes = ["/v2/health/live", "/v2/health/ready", "/ping", "/health"]
    assert [strict_server.get(path).status_code for path in probes] == [200] * len(probes)
    token = {"Authorization": f"Bearer {TOKEN}"}
    body = {"rows": [ROW]}
    path = f"/models/{strict_server.harness.model}/predict"
    assert strict_server.post(path, body, headers=token).status_code == 200
    assert strict_server.get("/metrics", headers=token).status_code == 200
    assert TOKEN not in strict_server.output()


def test_a_body_that_does_not_arrive_times_out(strict_server: PredictionServer) -> None:
    with partial_request(strict_server) as client:
        response = b"".join(iter(lambda: client.recv(65_536), b""))
    assert response.startswith(b"HTTP/1.1 408")
    assert b"RequestTooSlow" in response


def test_a_head_that_does_not_arrive_times_out(strict_server: PredictionServer) -> None:
    host, port = strict_server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), 30) as client:
        client.sendall(b"POST /models HTTP/1.1\r\nHost: x\r\n")
        assert client.recv(65_536) == b""


def test_shutdown_on_sigterm_is_orderly(deployed_harness: ModelHarness) -> None:
    """The server reports not ready, then finishes requests in flight, then exits."""
    with (
        running_server(deployed_harness, drain_seconds=4, name="ending") as server,
        partial_request(server) as client,
    ):
        server.process.terminate()
        wait_until(lambda: server.get("/v2/health/ready").status_code == 503)
        assert server.get("/v2/health/live").status_code == 200
        assert server.predict(ROW).status_code == 200
        wait_until(lambda: refuses_connections(server))
        assert finish_request(client).startswith(b"HTTP/1.1 200")
        assert server.process.wait(30) == 0


@pytest.mark.faults
def test_a_server_without_kafka_serves_its_local_copy_and_follows_the_ledger_later(
    tmp_path: Path, ledger_fixture: LedgerFixture
) -> None:
    kafka = broker.start(tmp_path / "kafka")
    harness = ModelHarness(kafka.bootstrap_servers, tmp_path, ledger_fixture.harness.model)
    harness.define(gate={"min_rows": 50, "policy": "always"})
    store = f"{harness.model}/models"
    os.makedirs(harness.settings.store / harness.model)
    os.symlink(ledger_fixture.harness.settings.store / store, harness.settings.store / store)
    try:
        with harness.open_model() as ctx:
            fixture = LedgerFixture(
                harness, ctx, ledger_fixture.first_digest, ledger_fixture.second_digest
            )
            fixture.deploy(fixture.first_digest)
            with running_server(harness, name="first") as server:
                before = server.predict(ROW).json()
                assert server.terminate() == 0
        broker.stop(tmp_path / "kafka")
        with running_server(harness, startup_timeout=1, name="alone") as server:
            assert server.predict(ROW).json() == before
            status = server.model_status()
            assert status["from_local_copy"]
            assert status["stale"].startswith("the ledger was not reached for")
            assert broker.start(tmp_path / "kafka").bootstrap_servers == harness.bootstrap_servers
            server.wait_for_status(from_local_copy=False, stale=None)
            with harness.open_model() as ctx:
                LedgerFixture(harness, ctx, fixture.first_digest, fixture.second_digest).deploy(
                    fixture.second_digest
                )
            server.wait_for_status(digest=fixture.second_digest, version=1)
            broker.stop(tmp_path / "kafka")
            assert server.predict(ROW).json()["digest"] == fixture.second_digest
    finally:
        broker.stop(tmp_path / "kafka")


@pytest.mark.faults
def test_two_workers_agree_and_a_killed_one_is_restarted(ledger_fixture: LedgerFixture) -> None:
    ledger_fixture.deploy(ledger_fixture.first_digest)
    with running_server(ledger_fixture.harness, "--workers", "2", name="two") as server:
        responses: list[dict[str, Any]] = []
        clients = LoadGenerator(server, [ROW], lambda _, response: responses.append(response))
        swaps = "tidemill_swaps_total"
        with clients.running(8, interval=0):
            wait_until(lambda: responses)
            entry = ledger_fixture.deploy(ledger_fixture.second_digest)
            wait_until(lambda: server.metric(swaps, model=ledger_fixture.harness.model) == 2)
            swapped = len(responses)
            wait_until(lambda: len(responses) > swapped + 100)
        assert clients.failures == []
        # At most 8 requests were in flight.
        late = responses[swapped + 16 :]
        assert {response["version"] for response in late} == {entry.seq}
        assert len({json.dumps(response) for response in late}) == 1
        count = len(responses)
        labels = {"model": ledger_fixture.harness.model, "route": "predict", "status": "200"}
        assert server.metric("tidemill_requests_total", **labels) >= count - 8
        family = psutil.Process(server.process.pid).children()
        workers = [process for process in family if "serve" in process.cmdline()]
        assert len(workers) == 2
        # A worker that exits sooner is not restarted.
        wait_until(lambda: time.time() - workers[1].create_time() > 3)
        workers[1].kill()
        server.session.close()
        wait_until(lambda: "is being restarted" in server.output())
        assert server.predict(ROW).status_code == 200
        assert server.terminate() == 0


@pytest.mark.faults
def test_predictions_are_logged_if_configured_and_drops_are_counted(
    ledger_fixture: LedgerFixture,
) -> None:
    ledger_fixture.deploy(ledger_fixture.first_digest)
    harness = ledger_fixture.harness
    with running_server(
        harness, name="logging", prediction_log="true", prediction_fields='["country"]'
    ) as server:
        url = f"/models/{harness.model}/predict"
        response = server.post(url, {"rows": [ROW, {**ROW, "country": "fr"}], "id": "mine"}).json()
        records = _logged_predictions(harness, 2)
        assert server.metric("tidemill_predictions_dropped_total", model=harness.model) == 0
    assert records == [
        {
            "request": "mine",
            "row": number,
            "model": harness.model,
            "digest": ledger_fixture.first_digest,
            "version": 0,
            "prediction": response["predictions"][number],
            "fields": {"country": country},
        }
        for number, country in enumerate(("de", "fr"))
    ]


def _logged_predictions(harness: ModelHarness, count: int) -> list[dict[str, object]]:
    """The first `count` records of the topic of predictions."""
    consumer = Consumer({"bootstrap.servers": harness.bootstrap_servers, "group.id": "reader"})
    consumer.assign([TopicPartition(f"{harness.model}.predictions", 0, 0)])
    records: list[dict[str, object]] = []
    deadline = time.monotonic() + 30
    while len(records) < count and time.monotonic() < deadline:
        message = consumer.poll(0.5)
        if message is not None and message.error() is None:
            records.append(json.loads(message.value()))
    consumer.close()
    return records
