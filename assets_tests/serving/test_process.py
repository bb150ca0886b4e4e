"""The server as a process: who may ask, how it ends, what it starts from, several of them."""

import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from confluent_kafka import Consumer, TopicPartition

from model_harness import ModelHarness
from prediction_server import (
    ROW,
    LedgerFixture,
    LoadClients,
    PredictionServer,
    refuses_connections,
    running_server,
)
from processes import run_command, wait_until
from tidemill.local import broker

TOKEN = "a secret of some length"


@contextmanager
def partial_request(server: PredictionServer, sent_bytes: int = 10) -> Iterator[socket.socket]:
    """A request of which only the beginning was sent yet; `rest` sends what is missing."""
    body = json.dumps({"rows": [ROW]}).encode()
    host, port = server.url.removeprefix("http://").split(":")
    path = f"/models/{server.harness.model}/predict"
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
    head += f"Authorization: Bearer {TOKEN}\r\n"
    with socket.create_connection((host, int(port)), 30) as client:
        client.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body[:sent_bytes])
        yield client


def finish_request(client: socket.socket, sent_bytes: int = 10) -> bytes:
    """Send what was missing; the whole answer."""
    client.sendall(json.dumps({"rows": [ROW]}).encode()[sent_bytes:])
    return b"".join(iter(lambda: client.recv(65_536), b""))


def test_beyond_this_machine_a_token_is_needed_to_start(deployed_harness: ModelHarness) -> None:
    done = run_command(
        deployed_harness.env, "tidemill", "serve", "--host", "0.0.0.0", "--port", "0"
    )
    assert done.returncode == 1
    assert "TIDEMILL_SERVE__TOKEN" in done.stderr


def test_a_taken_port_is_named(server: PredictionServer) -> None:
    port = server.url.rsplit(":", 1)[1]
    done = run_command(server.harness.env, "tidemill", "serve", "--port", port)
    assert done.returncode == 1
    assert f"cannot listen at 127.0.0.1, port {port}" in done.stderr


@pytest.fixture(scope="module")
def strict_server(deployed_harness: ModelHarness) -> Iterator[PredictionServer]:
    """A server that can be reached from elsewhere, has a token and waits for nobody."""
    settings = {"token": TOKEN, "host": "0.0.0.0", "seconds": 1, "idle_seconds": 1}
    with running_server(deployed_harness, name="strict", **settings) as running:
        running.url = running.url.replace("0.0.0.0", "127.0.0.1")
        yield running


def test_a_token_is_asked_for_on_every_route_but_the_probes(
    strict_server: PredictionServer,
) -> None:
    paths = ["/", "/docs", "/openapi.json", "/models", "/metrics", "/v2", "/nowhere"]
    assert [strict_server.get(path).status_code for path in paths] == [401] * len(paths)
    assert strict_server.predict(ROW).status_code == 401
    wrong = {"Authorization": f"Bearer {TOKEN}?"}
    assert strict_server.get("/models", headers=wrong).status_code == 401
    probes = ["/v2/health/live", "/v2/health/ready", "/ping", "/health"]
    assert [strict_server.get(path).status_code for path in probes] == [200] * len(probes)
    right = {"Authorization": f"Bearer {TOKEN}"}
    body = {"rows": [ROW]}
    path = f"/models/{strict_server.harness.model}/predict"
    assert strict_server.post(path, body, headers=right).status_code == 200
    assert strict_server.get("/metrics", headers=right).status_code == 200
    assert TOKEN not in strict_server.output()


def test_a_body_that_does_not_come_is_given_up(strict_server: PredictionServer) -> None:
    with partial_request(strict_server) as client:
        told = b"".join(iter(lambda: client.recv(65_536), b""))
    assert told.startswith(b"HTTP/1.1 408")
    assert b"RequestTooSlow" in told


def test_a_head_that_does_not_come_is_given_up(strict_server: PredictionServer) -> None:
    host, port = strict_server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), 30) as client:
        client.sendall(b"POST /models HTTP/1.1\r\nHost: x\r\n")
        assert client.recv(65_536) == b""


def test_the_end_comes_in_order(deployed_harness: ModelHarness) -> None:
    """SIGTERM: first not ready, then requests under way are finished, then the end."""
    with (
        running_server(deployed_harness, drain=4, name="ending") as server,
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
def test_without_kafka_it_starts_from_its_copy_and_goes_on_when_kafka_is_back(
    tmp_path: Path, ledger_fixture: LedgerFixture
) -> None:
    running = broker.start(tmp_path / "kafka")
    bench = ModelHarness(running.bootstrap_servers, tmp_path, ledger_fixture.harness.model)
    bench.define(gate={"min_rows": 50, "policy": "always"})
    store = f"{bench.model}/models"
    os.makedirs(bench.settings.store / bench.model)
    os.symlink(ledger_fixture.harness.settings.store / store, bench.settings.store / store)
    try:
        with bench.open_model() as mill:
            here = LedgerFixture(
                bench, mill, ledger_fixture.first_digest, ledger_fixture.second_digest
            )
            here.deploy(here.first_digest)
            with running_server(bench, name="first") as server:
                before = server.predict(ROW).json()
                assert server.terminate() == 0
        broker.stop(tmp_path / "kafka")
        with running_server(bench, patience=1, name="alone") as server:
            assert server.predict(ROW).json() == before
            told = server.model_status()
            assert told["from_local_copy"]
            assert told["stale"].startswith("the ledger was not reached for")
            assert broker.start(tmp_path / "kafka").bootstrap_servers == bench.bootstrap_servers
            server.wait_for_status(from_local_copy=False, stale=None)
            with bench.open_model() as mill:
                LedgerFixture(bench, mill, here.first_digest, here.second_digest).deploy(
                    here.second_digest
                )
            server.wait_for_status(digest=here.second_digest, version=1)
            broker.stop(tmp_path / "kafka")
            assert server.predict(ROW).json()["digest"] == here.second_digest
    finally:
        broker.stop(tmp_path / "kafka")


@pytest.mark.faults
def test_two_workers_agree_and_one_that_is_killed_comes_back(ledger_fixture: LedgerFixture) -> None:
    ledger_fixture.deploy(ledger_fixture.first_digest)
    with running_server(ledger_fixture.harness, "--workers", "2", name="two") as server:
        clients, swaps = LoadClients(server, [ROW]), "tidemill_swaps_total"
        with clients.running(8):
            wait_until(lambda: clients.responses)
            entry = ledger_fixture.deploy(ledger_fixture.second_digest)
            wait_until(lambda: server.metric(swaps, model=ledger_fixture.harness.model) == 2)
            swapped = len(clients.responses)
            wait_until(lambda: len(clients.responses) > swapped + 100)
        assert clients.failures == []
        late = [
            told for _, _, told in clients.responses[swapped + 16 :]
        ]  # at most 8 were under way
        assert {told["version"] for told in late} == {entry.seq}
        assert len({json.dumps(told) for told in late}) == 1
        made = len(clients.responses)
        labels = {"model": ledger_fixture.harness.model, "route": "predict", "status": "200"}
        assert server.metric("tidemill_requests_total", **labels) >= made - 8
        family = psutil.Process(server.process.pid).children()
        workers = [each for each in family if "serve" in each.cmdline()]
        assert len(workers) == 2
        # One that ends sooner is not started again.
        wait_until(lambda: time.time() - workers[1].create_time() > 3)
        workers[1].kill()
        server.session.close()
        wait_until(lambda: "is started again" in server.output())
        assert server.predict(ROW).status_code == 200
        assert server.terminate() == 0


@pytest.mark.faults
def test_predictions_are_logged_when_asked_for_and_drops_are_counted(
    ledger_fixture: LedgerFixture,
) -> None:
    ledger_fixture.deploy(ledger_fixture.first_digest)
    bench = ledger_fixture.harness
    with running_server(
        bench, name="logging", prediction_log="true", prediction_fields='["country"]'
    ) as server:
        url = f"/models/{bench.model}/predict"
        told = server.post(url, {"rows": [ROW, {**ROW, "country": "fr"}], "id": "mine"}).json()
        found = _logged_predictions(bench, 2)
        assert server.metric("tidemill_predictions_dropped_total", model=bench.model) == 0
    assert found == [
        {
            "request": "mine",
            "row": number,
            "model": bench.model,
            "digest": ledger_fixture.first_digest,
            "version": 0,
            "prediction": told["predictions"][number],
            "fields": {"country": country},
        }
        for number, country in enumerate(("de", "fr"))
    ]


def _logged_predictions(harness: ModelHarness, count: int) -> list[dict[str, object]]:
    """So many records of the topic of predictions, from its start."""
    reader = Consumer({"bootstrap.servers": harness.bootstrap_servers, "group.id": "reader"})
    reader.assign([TopicPartition(f"{harness.model}.predictions", 0, 0)])
    records: list[dict[str, object]] = []
    deadline = time.monotonic() + 30
    while len(records) < count and time.monotonic() < deadline:
        message = reader.poll(0.5)
        if message is not None and message.error() is None:
            records.append(json.loads(message.value()))
    reader.close()
    return records
