"""The broker killed, stopped, cut off or slow in the midst of a read: resumed, or named in time."""

import signal
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from confluent_kafka import ElectionType, TopicPartition
from confluent_kafka.admin import AdminClient

import oracle
from bench import SPEC, Bench, named, turn
from commands import until
from kafka_nodes import Node, in_sync, kafka_nodes, leaders
from kept import Kept, kept
from tidemill.core.errors import LogUnavailable
from tidemill.cycle.extract import extract
from tidemill.cycle.initial import initial
from tidemill.cycle.plan import plan_window

pytestmark = [pytest.mark.faults, pytest.mark.timeout(600)]

_ROWS = 4_000
_MIDST = 100_000
"""Bytes of answers after which a fault comes; a window's records are about four times as many."""


def fed(node: Node, home: Path, replicas: int) -> Bench:
    """A bench that reaches the node directly, with a window of `_ROWS` rows that is closed."""
    made = Bench(f"127.0.0.1:{node.inner}", home, named("harmed"), replicas=replicas)
    made.define(windows=SPEC["windows"] | {"confirm": 20})
    made.create_topic()
    made.feed(-1, 1, rows=_ROWS)
    return made


def undisturbed(bench: Bench) -> Kept:
    with bench.mill() as mill:
        initial(mill)
        turn(mill, 0)
    return kept(bench)


def harmed(twin: Bench, node: Node, harm: Callable[[], None]) -> float | None:
    """Do this harm in the midst of the read of window 0; the seconds until it failed, if it did.

    A failure leaves the window planned, and nothing of its batch.
    """
    with twin.mill() as mill:
        initial(mill)
        plan_window(mill, twin.window(0))
        before = list(mill.repository.names(""))
        come: list[float] = []
        failed: LogUnavailable | None = None
        node.proxy.after(_MIDST, lambda: (come.append(time.monotonic()), harm()))
        try:
            extract(mill, twin.window(0))
        except LogUnavailable as error:
            failed = error
            print(error)  # what one wants to know where the test fails
        assert come, "no harm was done"
        if failed is None:
            return None
        seconds = time.monotonic() - come[0]
        assert f"Kafka at {twin.servers}" in failed.message
        assert list(mill.repository.names("")) == before
        return seconds


def ends_as(expected: Kept, twin: Bench, node: Node) -> None:
    """Run again: the same bytes stay as if undisturbed, and the oracle agrees."""
    with twin.mill() as mill:
        turn(mill, 0)
    assert kept(twin) == expected
    oracle.check(twin)
    oracle.check_against_the_log(twin, node.folder)


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    with kafka_nodes(tmp_path_factory.mktemp("node"), 1) as (one,):
        yield one


@pytest.fixture(scope="module")
def direct(node: Node, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return fed(node, tmp_path_factory.mktemp("direct"), replicas=1)


@pytest.fixture(scope="module")
def expected(direct: Bench) -> Kept:
    return undisturbed(direct)


@pytest.fixture
def through(direct: Bench, node: Node, request: pytest.FixtureRequest) -> Iterator[Bench]:
    """The same model with a store of its own, and the proxy between it and the broker."""
    twin = direct.twin(named(request.node.nodeid))
    twin.servers = f"127.0.0.1:{node.proxy.port}"
    yield twin
    node.proxy.pause, node.proxy.held = 0.0, False
    node.proxy.after(0, lambda: None)


def slow(node: Node) -> None:
    """From now on each piece of an answer is 300 ms late."""
    node.proxy.pause = 0.3


def killed_and_back(node: Node) -> None:
    node.signal(signal.SIGKILL)
    node.start()


def paused(node: Node) -> None:
    node.signal(signal.SIGSTOP)
    time.sleep(3)
    node.signal(signal.SIGCONT)


@pytest.mark.parametrize(
    "harm",
    [
        lambda node: node.proxy.close_all(),
        lambda node: node.proxy.reset_all(),
        slow,
        paused,
        killed_and_back,
    ],
    ids=["close", "reset", "300 ms late", "stopped for 3 s", "kill -9 and back"],
)
def test_a_read_goes_on_after_what_passes(
    through: Bench, node: Node, expected: Kept, harm: Callable[[Node], None]
) -> None:
    """Row 7."""
    assert harmed(through, node, partial(harm, node)) is None
    node.proxy.pause = 0.0
    ends_as(expected, through, node)


def limited(node: Node) -> None:
    """From now on a connection ends when it has given so much: less than one fetch of a read."""
    node.proxy.close_all()
    node.proxy.after(_MIDST, partial(limited, node))


def hanging(node: Node) -> None:
    node.proxy.held = True


def healed(node: Node) -> None:
    node.proxy.held = False
    node.proxy.after(0, lambda: None)
    node.proxy.close_all()
    if node.process.poll() is not None:
        node.start()
    until(node.answers, 60, node.said)


@pytest.mark.parametrize(
    "harm",
    [limited, hanging, lambda node: node.signal(signal.SIGKILL)],
    ids=["limit", "hang", "kill -9"],
)
def test_what_does_not_pass_is_named_in_time_and_leaves_the_window_planned(
    through: Bench, node: Node, expected: Kept, harm: Callable[[Node], None]
) -> None:
    """Row 7."""
    through.timeout = 4
    seconds = harmed(through, node, partial(harm, node))
    assert seconds is not None
    assert seconds < 2 * through.timeout + 5
    healed(node)
    through.timeout = 30
    ends_as(expected, through, node)


def test_a_broker_that_is_stopped_for_a_minute_is_named_in_time_and_wakes_unharmed(
    through: Bench, node: Node, expected: Kept
) -> None:
    """Row 7."""
    through.timeout, begun = 20, time.monotonic()
    seconds = harmed(through, node, partial(node.signal, signal.SIGSTOP))
    assert seconds is not None
    assert seconds < 2 * through.timeout + 5
    time.sleep(max(0.0, begun + 60 - time.monotonic()))
    node.signal(signal.SIGCONT)
    until(node.answers, 60, node.said)
    through.timeout = 30
    ends_as(expected, through, node)


def elected(first: Node, topic: str) -> None:
    """Let the preferred node lead each partition again."""
    admin = AdminClient({"bootstrap.servers": f"127.0.0.1:{first.inner}"})
    partitions = [TopicPartition(topic, p) for p in leaders(first, topic)]
    admin.elect_leaders(ElectionType.PREFERRED, partitions).result(30)


def test_a_leader_that_changes_in_the_midst_of_a_window_changes_no_byte(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """Row 8: by kill -9, by election while both live, and by a stop in order."""
    with kafka_nodes(tmp_path_factory.mktemp("nodes"), 2) as (first, second):
        bench = fed(first, tmp_path_factory.mktemp("two"), replicas=2)
        until(lambda: in_sync(first, bench.model, 2), 60, second.said)
        expected = undisturbed(bench)

        def ends_alike(name: str, at: Node, harm: Callable[[], None]) -> None:
            twin = bench.twin(name)
            twin.servers = f"127.0.0.1:{first.proxy.port}"
            before = leaders(first, bench.model)
            assert harmed(twin, at, harm) is None, name
            until(lambda: leaders(first, bench.model) != before, 60, first.said)
            ends_as(expected, twin, first)

        assert set(leaders(first, bench.model).values()) == {1, 2}
        ends_alike("killed", second, partial(second.signal, signal.SIGKILL))
        assert set(leaders(first, bench.model).values()) == {1}
        second.start()
        until(lambda: in_sync(first, bench.model, 2), 60, second.said)
        ends_alike("elected", first, partial(elected, first, bench.model))
        assert set(leaders(first, bench.model).values()) == {1, 2}
        ends_alike("stopped", second, partial(second.signal, signal.SIGTERM))
