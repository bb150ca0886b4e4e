"""A server without Kafka and MLflow: at its start, later, and when they come back."""

import os
import re
import signal
from collections.abc import Iterator
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests

import oracle
from bench import Bench, named, turn
from commands import until
from deployments import deployed
from serving_hands import ROW, Serving, answers, serving
from swarm import swarm
from tidemill.adapters import broker

pytestmark = pytest.mark.faults


@dataclass
class Alone:
    """A model over a broker of its own, which may be away, and an MLflow that always is."""

    bench: Bench
    folder: Path

    def pause(self) -> None:
        os.kill(self._pid(), signal.SIGSTOP)

    def resume(self) -> None:
        os.kill(self._pid(), signal.SIGCONT)

    def kill(self) -> None:
        os.kill(self._pid(), signal.SIGKILL)

    def bring_back(self) -> None:
        broker.start(self.folder)

    def serving(self, name: str, ready: bool = True) -> AbstractContextManager[Serving]:
        return serving(self.bench, name=name, ready=ready, patience=2)

    @property
    def head(self) -> dict[str, object]:
        """What `/models` is to say is in service."""
        with self.bench.mill() as mill:
            found = mill.chain().head
        assert found is not None
        return {"digest": found.entry.digest, "version": found.entry.seq}

    def _pid(self) -> int:
        found = broker.status(self.folder)
        assert found is not None
        return found.pid


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[Alone]:
    folder = tmp_path / "broker"
    servers = broker.start(folder).bootstrap_servers
    down = "http://127.0.0.1:1"
    bench = Bench(servers, tmp_path, named("cut off"), tracking=down)
    bench.define()
    bench.create_topic()
    made = Alone(deployed(bench), folder)
    try:
        yield made
    finally:
        broker.stop(folder)


def reached(server: Serving) -> bool:
    """Whether the server listens by now."""
    with suppress(requests.ConnectionError):
        return server.get("/v2/health/live").status_code == 200
    return False


def silent(server: Serving) -> bool:
    """Whether the server says that it does not reach the ledger."""
    told = server.get("/models").json()["ledger"]
    return not told["reached"] and told["silent_seconds"] > 2


def cut_off(server: Serving, head: dict[str, object], copied: bool) -> None:
    """It serves this model, is ready, and says how stale that may be."""
    until(lambda: silent(server), 60)
    told = server.model()
    assert head.items() <= told.items()
    assert told["from_local_copy"] is copied
    assert re.fullmatch(r"the ledger was not reached for \d+ s", told["stale"])
    assert server.metric("tidemill_ledger_silent_seconds") > 2
    assert answers(server)


def test_it_serves_through_an_outage_and_starts_in_one_from_its_own_copy(alone: Alone) -> None:
    """Row 31: Kafka stopped, then killed; MLflow down all along."""
    head = alone.head
    with alone.serving("first") as server:
        server.until(stale=None, from_local_copy=False, **head)
        with swarm(server).asking(8) as clients:
            alone.pause()
            cut_off(server, head, copied=False)
            alone.resume()
            server.until(stale=None, **head)
            alone.kill()
            cut_off(server, head, copied=False)
        clients.right()
        assert clients.seen.keys() == {head["version"]}
        assert server.ended() == 0
    with alone.serving("second") as server, swarm(server).asking(8) as clients:
        cut_off(server, head, copied=True)
        assert "is served from the local copy; it may be stale" in server.said()
        alone.bring_back()
        server.until(stale=None, from_local_copy=False, **head)
        with alone.bench.mill() as mill:
            turn(mill, 2)
        server.until(stale=None, from_local_copy=False, **alone.head)
        assert alone.head["version"] == 3
        clients.right()
    oracle.check(alone.bench)


def test_a_copy_that_is_damaged_is_not_served_and_the_server_waits(alone: Alone) -> None:
    """Row 31: its bundle or its entry; with Kafka back it serves what the ledger says."""
    head = alone.head
    with alone.serving("first") as server:
        assert server.ended() == 0  # its copy is written by then
    alone.kill()
    (bundle,) = alone.bench.settings.serving_data.rglob("*.bundle")
    (entry,) = alone.bench.settings.serving_data.rglob("entry.json")
    for path in (entry, bundle):
        whole = path.read_bytes()
        path.write_bytes(whole[:-20] + bytes([whole[-20] ^ 1]) + whole[-19:])
        with alone.serving("damaged", ready=False) as server:
            until(lambda: reached(server) and silent(server), 60)
            assert not answers(server)
            assert server.get("/v2/health/live").status_code == 200
            told = server.predict(ROW)
            assert (told.status_code, told.headers["retry-after"]) == (503, "1")
            assert server.model()["in_service"] is False
            if path is bundle:
                until(lambda: "DigestMismatch" in str(server.model()["last_failure"]))
                assert not answers(server)
                alone.bring_back()
                server.until(stale=None, from_local_copy=False, last_failure=None, **head)
                assert answers(server)
        path.write_bytes(whole)
    oracle.check(alone.bench)
