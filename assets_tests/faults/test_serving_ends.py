"""A server told to end, with requests under way or while it loads, and one that is killed."""

import signal
import socket
import time
from collections.abc import Iterator
from contextlib import closing

import psutil
import pytest

import oracle
from bundle_mutations import LedgerAppender, deploy_windows, put_bundle, with_excessive_golden_rows
from load_generator import encode_request, load_generator_for
from model_harness import ModelHarness, model_name_for
from prediction_server import (
    ROW,
    PredictionServer,
    bundle_digests,
    is_ready,
    refuses_connections,
    running_server,
)
from processes import wait_until
from tidemill.cycle.deploy import read_chain

pytestmark = pytest.mark.faults


@pytest.fixture(scope="module")
def harness(kafka: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModelHarness]:
    """One model, deployed, for all servers here; the oracle looks at it at the end."""
    new_harness = ModelHarness(kafka, tmp_path_factory.mktemp("ends"), model_name_for("ends"))
    new_harness.define()
    new_harness.create_topic()
    yield deploy_windows(new_harness)
    with new_harness.open_model() as ctx:
        read_chain(ctx)  # copies the entries, as the next deployment does
    oracle.assert_consistent(new_harness)


class PartialRequest:
    """A request of which all but the last byte was sent."""

    def __init__(self, server: PredictionServer) -> None:
        path = f"/models/{server.harness.model}/predict"
        *_, port = server.url.split(":")
        self._encoded = encode_request(path, {"rows": [ROW]})
        self._socket = socket.create_connection(("127.0.0.1", int(port)))
        self._socket.sendall(self._encoded[:-1])

    def finish(self) -> bytes:
        """Send the rest; all that the server answers until it hangs up."""
        self._socket.sendall(self._encoded[-1:])
        self._socket.settimeout(20)
        with closing(self._socket):
            return b"".join(iter(lambda: self._socket.recv(65_536), b""))


@pytest.mark.parametrize("workers", [1, 2])
def test_told_to_end_it_is_not_ready_then_finishes_what_is_under_way(
    harness: ModelHarness, workers: int
) -> None:
    """Row 30."""
    with running_server(harness, workers=workers, drain=4, name="ends") as server:
        under_way = [PartialRequest(server) for _ in range(20)]
        time.sleep(0.3)
        server.process.send_signal(signal.SIGTERM)
        wait_until(lambda: server.get("/v2/health/ready").status_code == 503)
        assert server.get("/v2/health/live").status_code == 200
        assert server.predict(ROW).status_code == 200  # until the balancers have seen it
        wait_until(lambda: refuses_connections(server))
        assert server.process.poll() is None
        for each in under_way:
            told = each.finish()
            assert told.startswith(b"HTTP/1.1 200 "), told
            assert b'"predictions":[' in told
        assert server.process.wait(20) == 0
        assert "Traceback" not in server.output()


@pytest.mark.parametrize("said_so", ["Serving ", "is in service"])
def test_told_to_end_while_it_starts_it_ends_at_once(harness: ModelHarness, said_so: str) -> None:
    """Row 30: while it loads what it serves, and right after."""
    with running_server(harness, ready=False, name="starts") as server:
        wait_until(lambda: said_so in server.output())
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(30) == 0, server.output()
        assert "Traceback" not in server.output()


def test_told_to_end_while_it_proves_a_model_it_does_not_wait_for_that(
    harness: ModelHarness,
) -> None:
    """Row 30: the proof of this one would take 20 s."""
    with harness.open_model() as mill:
        good = mill.chain().head
        assert good is not None
        appender = LedgerAppender(harness, mill)
        hangs = put_bundle(
            harness, with_excessive_golden_rows(mill.repository.bundle(good.entry.digest))
        )
    with running_server(harness, name="loads") as server:
        before = server.model_status()["digest"]
        appender.deploy(hangs)
        process = psutil.Process(server.process.pid)
        wait_until(lambda: len(process.children(recursive=True)) == 2)  # the helper and its child
        family = process.children(recursive=True)
        assert server.predict(ROW).json()["digest"] == before
        begun_ = time.monotonic()
        assert server.terminate() == 0
        assert time.monotonic() - begun_ < 8
        assert not psutil.wait_procs(family, timeout=5)[1]
    appender.deploy(good.entry.digest)


def test_killed_it_comes_back_with_the_head_of_the_ledger(harness: ModelHarness) -> None:
    """Row 30: from its first answer on, though it has a copy of the model before."""
    with harness.open_model() as mill:
        models = bundle_digests(mill)
        for ready in (True, False):
            with running_server(harness, name="killed", ready=ready) as server:
                if not ready:
                    wait_until(lambda: is_ready(server))
                process = psutil.Process(server.process.pid)
                family = process.children(recursive=True)
                server.process.kill()
                server.process.wait(10)
                assert not psutil.wait_procs(family, timeout=10)[1]  # nothing is left of it
            before = mill.chain().head
            assert before is not None
            other = next(digest for digest in models if digest != before.entry.digest)
            entry = LedgerAppender(harness, mill).deploy(other)
            with (
                running_server(harness, name="again") as server,
                load_generator_for(server).running(4) as clients,
            ):
                wait_until(lambda: clients.answer_count > 50)
            clients.assert_all_correct()
            assert set(clients.first_answers) == {entry.seq}
            assert clients.first_answers[entry.seq][0] == other
