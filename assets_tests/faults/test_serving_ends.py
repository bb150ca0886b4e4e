"""A server that receives SIGTERM with pending requests or while loading, and a killed one."""

import signal
import socket
import time
from collections.abc import Iterator
from contextlib import closing

import psutil
import pytest

from faults.deployments import LedgerAppender, deploy_windows
from support.models import oracle
from support.models.harness import ModelHarness, model_name_for
from support.processes.commands import wait_until
from support.serving.bundle_mutations import put_bundle, with_excessive_golden_rows
from support.serving.load_generator import encode_request, load_generator_for
from support.serving.prediction_server import (
    ROW,
    PredictionServer,
    bundle_digests,
    is_ready,
    refuses_connections,
    running_server,
)
from tidemill.cycle.ledger import read_chain

pytestmark = pytest.mark.faults


@pytest.fixture(scope="module")
def harness(kafka: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModelHarness]:
    """One deployed model for all servers here; the oracle runs at the end."""
    new_harness = ModelHarness(kafka, tmp_path_factory.mktemp("ends"), model_name_for("ends"))
    new_harness.define()
    new_harness.create_topic()
    yield deploy_windows(new_harness)
    with new_harness.open_model() as ctx:
        read_chain(ctx)  # copies the entries, as the next deployment would
    oracle.assert_consistent(new_harness)


class PartialRequest:
    """A request sent except for its last byte."""

    def __init__(self, server: PredictionServer) -> None:
        path = f"/models/{server.harness.model}/predict"
        *_, port = server.url.split(":")
        self._encoded = encode_request(path, {"rows": [ROW]})
        self._socket = socket.create_connection(("127.0.0.1", int(port)))
        self._socket.sendall(self._encoded[:-1])

    def finish(self) -> bytes:
        """Send the last byte; the response up to the end of the connection."""
        self._socket.sendall(self._encoded[-1:])
        self._socket.settimeout(20)
        with closing(self._socket):
            return b"".join(iter(lambda: self._socket.recv(65_536), b""))


@pytest.mark.parametrize("workers", [1, 2])
def test_on_sigterm_a_server_is_not_ready_and_finishes_pending_requests(
    harness: ModelHarness, workers: int
) -> None:
    """Fault 30."""
    with running_server(harness, workers=workers, drain_seconds=4, name="ends") as server:
        pending = [PartialRequest(server) for _ in range(20)]
        time.sleep(0.3)
        server.process.send_signal(signal.SIGTERM)
        wait_until(lambda: server.get("/v2/health/ready").status_code == 503)
        assert server.get("/v2/health/live").status_code == 200
        assert server.predict(ROW).status_code == 200  # until load balancers have noticed
        wait_until(lambda: refuses_connections(server))
        assert server.process.poll() is None
        for request in pending:
            response = request.finish()
            assert response.startswith(b"HTTP/1.1 200 "), response
            assert b'"predictions":[' in response
        assert server.process.wait(20) == 0
        assert "Traceback" not in server.output()


@pytest.mark.parametrize("output", ["Serving ", "is in service"])
def test_on_sigterm_while_starting_a_server_exits_at_once(
    harness: ModelHarness, output: str
) -> None:
    """Fault 30: while it loads its model, and right after."""
    with running_server(harness, ready=False, name="starts") as server:
        wait_until(lambda: output in server.output())
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(30) == 0, server.output()
        assert "Traceback" not in server.output()


def test_on_sigterm_while_validating_a_server_does_not_wait(
    harness: ModelHarness,
) -> None:
    """Fault 30: validating this model would take 20 s."""
    with harness.open_model() as ctx:
        head = ctx.chain().head
        assert head is not None
        appender = LedgerAppender(harness, ctx)
        slow_digest = put_bundle(
            harness, with_excessive_golden_rows(ctx.repository.bundle(head.entry.digest))
        )
    with running_server(harness, name="loads") as server:
        before = server.model_status()["digest"]
        appender.deploy(slow_digest)
        process = psutil.Process(server.process.pid)
        wait_until(
            lambda: len(process.children(recursive=True)) == 2
        )  # the fork server and its child
        family = process.children(recursive=True)
        assert server.predict(ROW).json()["digest"] == before
        started_at = time.monotonic()
        assert server.terminate() == 0
        assert time.monotonic() - started_at < 8
        assert not psutil.wait_procs(family, timeout=5)[1]
    appender.deploy(head.entry.digest)


def test_a_killed_server_restarts_with_the_head_of_the_ledger(harness: ModelHarness) -> None:
    """Fault 30: from its first response on, although its local copy is of the previous model."""
    with harness.open_model() as ctx:
        models = bundle_digests(ctx)
        for ready in (True, False):
            with running_server(harness, name="killed", ready=ready) as server:
                if not ready:
                    wait_until(lambda: is_ready(server))
                process = psutil.Process(server.process.pid)
                family = process.children(recursive=True)
                server.process.kill()
                server.process.wait(10)
                assert not psutil.wait_procs(family, timeout=10)[1]
            before = ctx.chain().head
            assert before is not None
            other = next(digest for digest in models if digest != before.entry.digest)
            entry = LedgerAppender(harness, ctx).deploy(other)
            with (
                running_server(harness, name="again") as server,
                load_generator_for(server).running(4) as clients,
            ):
                wait_until(lambda: clients.answer_count > 50)
            clients.assert_all_correct()
            assert set(clients.first_answers) == {entry.seq}
            assert clients.first_answers[entry.seq][0] == other
