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

from bench import Bench
from commands import command, until
from serving_hands import ROW, Clients, Ledgered, Serving, refuses, serving
from tidemill.adapters import broker

TOKEN = "a secret of some length"


@contextmanager
def asked_in_part(server: Serving, sent: int = 10) -> Iterator[socket.socket]:
    """A request of which only the beginning was sent yet; `rest` sends what is missing."""
    body = json.dumps({"rows": [ROW]}).encode()
    host, port = server.url.removeprefix("http://").split(":")
    path = f"/models/{server.bench.model}/predict"
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
    head += f"Authorization: Bearer {TOKEN}\r\n"
    with socket.create_connection((host, int(port)), 30) as client:
        client.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body[:sent])
        yield client


def rest(client: socket.socket, sent: int = 10) -> bytes:
    """Send what was missing; the whole answer."""
    client.sendall(json.dumps({"rows": [ROW]}).encode()[sent:])
    return b"".join(iter(lambda: client.recv(65_536), b""))


def test_beyond_this_machine_a_token_is_needed_to_start(deployed: Bench) -> None:
    done = command(deployed.environment, "tidemill", "serve", "--host", "0.0.0.0", "--port", "0")
    assert done.returncode == 1
    assert "TIDEMILL_SERVE__TOKEN" in done.stderr


def test_a_taken_port_is_named(server: Serving) -> None:
    port = server.url.rsplit(":", 1)[1]
    done = command(server.bench.environment, "tidemill", "serve", "--port", port)
    assert done.returncode == 1
    assert f"cannot listen at 127.0.0.1, port {port}" in done.stderr


@pytest.fixture(scope="module")
def strict(deployed: Bench) -> Iterator[Serving]:
    """A server that can be reached from elsewhere, has a token and waits for nobody."""
    settings = {"token": TOKEN, "host": "0.0.0.0", "seconds": 1, "idle_seconds": 1}
    with serving(deployed, name="strict", **settings) as running:
        running.url = running.url.replace("0.0.0.0", "127.0.0.1")
        yield running


def test_a_token_is_asked_for_on_every_route_but_the_probes(strict: Serving) -> None:
    paths = ["/", "/docs", "/openapi.json", "/models", "/metrics", "/v2", "/nowhere"]
    assert [strict.get(path).status_code for path in paths] == [401] * len(paths)
    assert strict.predict(ROW).status_code == 401
    wrong = {"Authorization": f"Bearer {TOKEN}?"}
    assert strict.get("/models", headers=wrong).status_code == 401
    probes = ["/v2/health/live", "/v2/health/ready", "/ping", "/health"]
    assert [strict.get(path).status_code for path in probes] == [200] * len(probes)
    right = {"Authorization": f"Bearer {TOKEN}"}
    body = {"rows": [ROW]}
    path = f"/models/{strict.bench.model}/predict"
    assert strict.post(path, body, headers=right).status_code == 200
    assert strict.get("/metrics", headers=right).status_code == 200
    assert TOKEN not in strict.said()


def test_a_body_that_does_not_come_is_given_up(strict: Serving) -> None:
    with asked_in_part(strict) as client:
        told = b"".join(iter(lambda: client.recv(65_536), b""))
    assert told.startswith(b"HTTP/1.1 408")
    assert b"RequestTooSlow" in told


def test_a_head_that_does_not_come_is_given_up(strict: Serving) -> None:
    host, port = strict.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), 30) as client:
        client.sendall(b"POST /models HTTP/1.1\r\nHost: x\r\n")
        assert client.recv(65_536) == b""


def test_the_end_comes_in_order(deployed: Bench) -> None:
    """SIGTERM: first not ready, then requests under way are finished, then the end."""
    with serving(deployed, drain=4, name="ending") as server, asked_in_part(server) as client:
        server.process.terminate()
        until(lambda: server.get("/v2/health/ready").status_code == 503)
        assert server.get("/v2/health/live").status_code == 200
        assert server.predict(ROW).status_code == 200
        until(lambda: refuses(server))
        assert rest(client).startswith(b"HTTP/1.1 200")
        assert server.process.wait(30) == 0


@pytest.mark.faults
def test_without_kafka_it_starts_from_its_copy_and_goes_on_when_kafka_is_back(
    tmp_path: Path, ledgered: Ledgered
) -> None:
    running = broker.start(tmp_path / "kafka")
    bench = Bench(running.bootstrap_servers, tmp_path, ledgered.bench.model)
    bench.define(gate={"min_rows": 50, "policy": "always"})
    store = f"{bench.model}/models"
    os.makedirs(bench.settings.store / bench.model)
    os.symlink(ledgered.bench.settings.store / store, bench.settings.store / store)
    try:
        with bench.mill() as mill:
            here = Ledgered(bench, mill, ledgered.one, ledgered.other)
            here.deploy(here.one)
            with serving(bench, name="first") as server:
                before = server.predict(ROW).json()
                assert server.ended() == 0
        broker.stop(tmp_path / "kafka")
        with serving(bench, patience=1, name="alone") as server:
            assert server.predict(ROW).json() == before
            told = server.model()
            assert told["from_local_copy"]
            assert told["stale"].startswith("the ledger was not reached for")
            assert broker.start(tmp_path / "kafka").bootstrap_servers == bench.servers
            server.until(from_local_copy=False, stale=None)
            with bench.mill() as mill:
                Ledgered(bench, mill, here.one, here.other).deploy(here.other)
            server.until(digest=here.other, version=1)
            broker.stop(tmp_path / "kafka")
            assert server.predict(ROW).json()["digest"] == here.other
    finally:
        broker.stop(tmp_path / "kafka")


@pytest.mark.faults
def test_two_workers_agree_and_one_that_is_killed_comes_back(ledgered: Ledgered) -> None:
    ledgered.deploy(ledgered.one)
    with serving(ledgered.bench, "--workers", "2", name="two") as server:
        clients, swaps = Clients(server, [ROW]), "tidemill_swaps_total"
        with clients.asking(8):
            until(lambda: clients.answers)
            entry = ledgered.deploy(ledgered.other)
            until(lambda: server.metric(swaps, model=ledgered.bench.model) == 2)
            swapped = len(clients.answers)
            until(lambda: len(clients.answers) > swapped + 100)
        assert clients.failed == []
        late = [told for _, _, told in clients.answers[swapped + 16 :]]  # at most 8 were under way
        assert {told["version"] for told in late} == {entry.seq}
        assert len({json.dumps(told) for told in late}) == 1
        made = len(clients.answers)
        labels = {"model": ledgered.bench.model, "route": "predict", "status": "200"}
        assert server.metric("tidemill_requests_total", **labels) >= made - 8
        family = psutil.Process(server.process.pid).children()
        workers = [each for each in family if "serve" in each.cmdline()]
        assert len(workers) == 2
        # One that ends sooner is not started again.
        until(lambda: time.time() - workers[1].create_time() > 3)
        workers[1].kill()
        server.session.close()
        until(lambda: "is started again" in server.said())
        assert server.predict(ROW).status_code == 200
        assert server.ended() == 0


@pytest.mark.faults
def test_predictions_are_logged_when_asked_for_and_drops_are_counted(ledgered: Ledgered) -> None:
    ledgered.deploy(ledgered.one)
    bench = ledgered.bench
    with serving(
        bench, name="logging", prediction_log="true", prediction_fields='["country"]'
    ) as server:
        url = f"/models/{bench.model}/predict"
        told = server.post(url, {"rows": [ROW, {**ROW, "country": "fr"}], "id": "mine"}).json()
        found = _logged(bench, 2)
        assert server.metric("tidemill_predictions_dropped_total", model=bench.model) == 0
    assert found == [
        {
            "request": "mine",
            "row": number,
            "model": bench.model,
            "digest": ledgered.one,
            "version": 0,
            "prediction": told["predictions"][number],
            "fields": {"country": country},
        }
        for number, country in enumerate(("de", "fr"))
    ]


def _logged(bench: Bench, count: int) -> list[dict[str, object]]:
    """So many records of the topic of predictions, from its start."""
    reader = Consumer({"bootstrap.servers": bench.servers, "group.id": "reader"})
    reader.assign([TopicPartition(f"{bench.model}.predictions", 0, 0)])
    found: list[dict[str, object]] = []
    deadline = time.monotonic() + 30
    while len(found) < count and time.monotonic() < deadline:
        message = reader.poll(0.5)
        if message is not None and message.error() is None:
            found.append(json.loads(message.value()))
    reader.close()
    return found
