"""A server told to end, with requests under way or while it loads, and one that is killed."""

import signal
import socket
import time
from collections.abc import Iterator
from contextlib import closing

import psutil
import pytest

import oracle
from bench import Bench, named
from commands import until
from deployments import Appender, deployed, endless, put_bundle
from serving_hands import ROW, Serving, answers, digests, refuses, serving
from swarm import request, swarm
from tidemill.cycle.deploy import read_chain

pytestmark = pytest.mark.faults


@pytest.fixture(scope="module")
def bench(kafka: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """One model, deployed, for all servers here; the oracle looks at it at the end."""
    made = Bench(kafka, tmp_path_factory.mktemp("ends"), named("ends"))
    made.define()
    made.create_topic()
    yield deployed(made)
    with made.mill() as mill:
        read_chain(mill)  # copies the entries, as the next deployment does
    oracle.check(made)


class Slowly:
    """A request of which all but the last byte was sent."""

    def __init__(self, server: Serving) -> None:
        path = f"/models/{server.bench.model}/predict"
        *_, port = server.url.split(":")
        self._whole = request(path, {"rows": [ROW]})
        self._socket = socket.create_connection(("127.0.0.1", int(port)))
        self._socket.sendall(self._whole[:-1])

    def finish(self) -> bytes:
        """Send the rest; all that the server answers until it hangs up."""
        self._socket.sendall(self._whole[-1:])
        self._socket.settimeout(20)
        with closing(self._socket):
            return b"".join(iter(lambda: self._socket.recv(65_536), b""))


@pytest.mark.parametrize("workers", [1, 2])
def test_told_to_end_it_is_not_ready_then_finishes_what_is_under_way(
    bench: Bench, workers: int
) -> None:
    """Row 30."""
    with serving(bench, workers=workers, drain=4, name="ends") as server:
        under_way = [Slowly(server) for _ in range(20)]
        time.sleep(0.3)
        server.process.send_signal(signal.SIGTERM)
        until(lambda: server.get("/v2/health/ready").status_code == 503)
        assert server.get("/v2/health/live").status_code == 200
        assert server.predict(ROW).status_code == 200  # until the balancers have seen it
        until(lambda: refuses(server))
        assert server.process.poll() is None
        for each in under_way:
            told = each.finish()
            assert told.startswith(b"HTTP/1.1 200 "), told
            assert b'"predictions":[' in told
        assert server.process.wait(20) == 0
        assert "Traceback" not in server.said()


@pytest.mark.parametrize("said_so", ["Serving ", "is in service"])
def test_told_to_end_while_it_starts_it_ends_at_once(bench: Bench, said_so: str) -> None:
    """Row 30: while it loads what it serves, and right after."""
    with serving(bench, ready=False, name="starts") as server:
        until(lambda: said_so in server.said())
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(30) == 0, server.said()
        assert "Traceback" not in server.said()


def test_told_to_end_while_it_proves_a_model_it_does_not_wait_for_that(bench: Bench) -> None:
    """Row 30: the proof of this one would take 20 s."""
    with bench.mill() as mill:
        good = mill.chain().head
        assert good is not None
        appender = Appender(bench, mill)
        hangs = put_bundle(bench, endless(mill.repository.bundle(good.entry.digest)))
    with serving(bench, name="loads") as server:
        before = server.model()["digest"]
        appender.deploy(hangs)
        process = psutil.Process(server.process.pid)
        until(lambda: len(process.children(recursive=True)) == 2)  # the helper and its child
        family = process.children(recursive=True)
        assert server.predict(ROW).json()["digest"] == before
        begun_ = time.monotonic()
        assert server.ended() == 0
        assert time.monotonic() - begun_ < 8
        assert not psutil.wait_procs(family, timeout=5)[1]
    appender.deploy(good.entry.digest)


def test_killed_it_comes_back_with_the_head_of_the_ledger(bench: Bench) -> None:
    """Row 30: from its first answer on, though it has a copy of the model before."""
    with bench.mill() as mill:
        models = digests(mill)
        for ready in (True, False):
            with serving(bench, name="killed", ready=ready) as server:
                if not ready:
                    until(lambda: answers(server))
                process = psutil.Process(server.process.pid)
                family = process.children(recursive=True)
                server.process.kill()
                server.process.wait(10)
                assert not psutil.wait_procs(family, timeout=10)[1]  # nothing is left of it
            before = mill.chain().head
            assert before is not None
            other = next(digest for digest in models if digest != before.entry.digest)
            entry = Appender(bench, mill).deploy(other)
            with serving(bench, name="again") as server, swarm(server).asking(4) as clients:
                until(lambda: clients.answered > 50)
            clients.right()
            assert set(clients.seen) == {entry.seq}
            assert clients.seen[entry.seq][0] == other
