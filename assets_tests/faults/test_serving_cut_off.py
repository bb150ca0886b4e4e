"""A server without Kafka and MLflow: at startup, later, and when they are available again."""

import os
import re
import signal
from collections.abc import Iterator
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests

from faults.deployments import deploy_windows
from support.models import oracle
from support.models.harness import ModelHarness, model_name_for, run_window
from support.processes.commands import wait_until
from support.serving.load_generator import load_generator_for
from support.serving.prediction_server import ROW, PredictionServer, is_ready, running_server
from tidemill.local import broker

pytestmark = pytest.mark.faults


@dataclass
class IsolatedModel:
    """A model on a private broker, which can be stopped, and with an unavailable MLflow."""

    harness: ModelHarness
    folder: Path

    def pause(self) -> None:
        os.kill(self._pid(), signal.SIGSTOP)

    def resume(self) -> None:
        os.kill(self._pid(), signal.SIGCONT)

    def kill(self) -> None:
        os.kill(self._pid(), signal.SIGKILL)

    def restart(self) -> None:
        broker.start(self.folder)

    def serve(self, name: str, ready: bool = True) -> AbstractContextManager[PredictionServer]:
        return running_server(self.harness, name=name, ready=ready, startup_timeout=2)

    @property
    def head(self) -> dict[str, object]:
        """The ledger's head, as `/models` must report it."""
        with self.harness.open_model() as ctx:
            head_entry = ctx.chain().head
        assert head_entry is not None
        return {"digest": head_entry.entry.digest, "version": head_entry.entry.seq}

    def _pid(self) -> int:
        status = broker.status(self.folder)
        assert status is not None
        return status.pid


@pytest.fixture
def isolated_model(tmp_path: Path) -> Iterator[IsolatedModel]:
    folder = tmp_path / "broker"
    servers = broker.start(folder).bootstrap_servers
    down = "http://127.0.0.1:1"
    harness = ModelHarness(servers, tmp_path, model_name_for("cut off"), tracking_uri=down)
    harness.define()
    harness.create_topic()
    model = IsolatedModel(deploy_windows(harness), folder)
    try:
        yield model
    finally:
        broker.stop(folder)


def is_listening(server: PredictionServer) -> bool:
    """Whether the server listens."""
    with suppress(requests.ConnectionError):
        return server.get("/v2/health/live").status_code == 200
    return False


def is_ledger_unreachable(server: PredictionServer) -> bool:
    """Whether the server reports that it cannot reach the ledger."""
    ledger_status = server.get("/models").json()["ledger"]
    return not ledger_status["connected"] and ledger_status["seconds_since_contact"] > 2


def assert_serves_stale(server: PredictionServer, head: dict[str, object], copied: bool) -> None:
    """Assert that the server serves this model, is ready, and reports that it may be stale."""
    wait_until(lambda: is_ledger_unreachable(server), 60)
    status = server.model_status()
    assert head.items() <= status.items()
    assert status["from_local_copy"] is copied
    assert re.fullmatch(r"the ledger was not reached for \d+ s", status["stale"])
    assert server.metric("tidemill_ledger_contact_age_seconds") > 2
    assert is_ready(server)


def test_a_server_serves_through_an_outage_and_starts_from_its_local_copy(
    isolated_model: IsolatedModel,
) -> None:
    """Fault 31: Kafka is stopped, then killed; MLflow is always down."""
    head = isolated_model.head
    with isolated_model.serve("first") as server:
        server.wait_for_status(stale=None, from_local_copy=False, **head)
        with load_generator_for(server).running(8) as clients:
            isolated_model.pause()
            assert_serves_stale(server, head, copied=False)
            isolated_model.resume()
            server.wait_for_status(stale=None, **head)
            isolated_model.kill()
            assert_serves_stale(server, head, copied=False)
        clients.assert_all_correct()
        assert clients.first_answers.keys() == {head["version"]}
        assert server.terminate() == 0
    with isolated_model.serve("second") as server, load_generator_for(server).running(8) as clients:
        assert_serves_stale(server, head, copied=True)
        assert "is served from the local copy; it may be stale" in server.output()
        isolated_model.restart()
        server.wait_for_status(stale=None, from_local_copy=False, **head)
        with isolated_model.harness.open_model() as ctx:
            run_window(ctx, 2)
        server.wait_for_status(stale=None, from_local_copy=False, **isolated_model.head)
        assert isolated_model.head["version"] == 3
        clients.assert_all_correct()
    oracle.assert_consistent(isolated_model.harness)


def test_a_damaged_local_copy_is_not_served_and_the_server_waits(
    isolated_model: IsolatedModel,
) -> None:
    """Fault 31: its bundle or its entry; once Kafka is back, the server follows the ledger."""
    head = isolated_model.head
    with isolated_model.serve("first") as server:
        assert server.terminate() == 0  # the local copy is written by then
    isolated_model.kill()
    (bundle,) = isolated_model.harness.settings.serving_data.rglob("*.bundle")
    (entry,) = isolated_model.harness.settings.serving_data.rglob("entry.json")
    for path in (entry, bundle):
        original = path.read_bytes()
        path.write_bytes(original[:-20] + bytes([original[-20] ^ 1]) + original[-19:])
        with isolated_model.serve("damaged", ready=False) as server:
            wait_until(lambda: is_listening(server) and is_ledger_unreachable(server), 60)
            assert not is_ready(server)
            assert server.get("/v2/health/live").status_code == 200
            response = server.predict(ROW)
            assert (response.status_code, response.headers["retry-after"]) == (503, "1")
            assert server.model_status()["in_service"] is False
            if path is bundle:
                wait_until(lambda: "DigestMismatch" in str(server.model_status()["last_failure"]))
                assert not is_ready(server)
                isolated_model.restart()
                server.wait_for_status(stale=None, from_local_copy=False, last_failure=None, **head)
                assert is_ready(server)
        path.write_bytes(original)
    oracle.assert_consistent(isolated_model.harness)
