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
from kafka_nodes import Node, all_in_sync, kafka_cluster, leader_by_partition
from model_harness import SPEC, ModelHarness, model_name_for, run_window
from processes import wait_until
from store_snapshot import StoreSnapshot, take_snapshot
from tidemill.core.errors import LogUnavailable
from tidemill.cycle.extract import extract
from tidemill.cycle.initial import initial
from tidemill.cycle.plan import plan_window

pytestmark = [pytest.mark.faults, pytest.mark.timeout(600)]

_ROWS = 4_000
_FAULT_AFTER_BYTES = 100_000
"""Bytes of answers after which a fault comes; a window's records are about four times as many."""


def make_harness(node: Node, home: Path, replicas: int) -> ModelHarness:
    """A bench that reaches the node directly, with a window of `_ROWS` rows that is closed."""
    new_harness = ModelHarness(
        f"127.0.0.1:{node.direct_port}", home, model_name_for("harmed"), replicas=replicas
    )
    new_harness.define(windows=SPEC["windows"] | {"confirm": 20})
    new_harness.create_topic()
    new_harness.produce_windows(-1, 1, rows=_ROWS)
    return new_harness


def run_undisturbed(harness: ModelHarness) -> StoreSnapshot:
    with harness.open_model() as ctx:
        initial(ctx)
        run_window(ctx, 0)
    return take_snapshot(harness)


def extract_during_fault(
    twin: ModelHarness, node: Node, inject_fault: Callable[[], None]
) -> float | None:
    """Do this harm in the midst of the read of window 0; the seconds until it failed, if it did.

    A failure leaves the window planned, and nothing of its batch.
    """
    with twin.open_model() as ctx:
        initial(ctx)
        plan_window(ctx, twin.window(0))
        before = list(ctx.repository.names(""))
        injected_at: list[float] = []
        failure: LogUnavailable | None = None
        node.proxy.call_after(
            _FAULT_AFTER_BYTES, lambda: (injected_at.append(time.monotonic()), inject_fault())
        )
        try:
            extract(ctx, twin.window(0))
        except LogUnavailable as error:
            failure = error
            print(error)  # what one wants to know where the test fails
        assert injected_at, "no harm was done"
        if failure is None:
            return None
        elapsed = time.monotonic() - injected_at[0]
        assert f"Kafka at {twin.bootstrap_servers}" in failure.message
        assert list(ctx.repository.names("")) == before
        return elapsed


def assert_recovers(expected: StoreSnapshot, twin: ModelHarness, node: Node) -> None:
    """Run again: the same bytes stay as if undisturbed, and the oracle agrees."""
    with twin.open_model() as ctx:
        run_window(ctx, 0)
    assert take_snapshot(twin) == expected
    oracle.assert_consistent(twin)
    oracle.assert_matches_log(twin, node.folder)


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    with kafka_cluster(tmp_path_factory.mktemp("node"), 1) as (single_node,):
        yield single_node


@pytest.fixture(scope="module")
def direct_harness(node: Node, tmp_path_factory: pytest.TempPathFactory) -> ModelHarness:
    return make_harness(node, tmp_path_factory.mktemp("direct"), replicas=1)


@pytest.fixture(scope="module")
def expected(direct_harness: ModelHarness) -> StoreSnapshot:
    return run_undisturbed(direct_harness)


@pytest.fixture
def proxied_harness(
    direct_harness: ModelHarness, node: Node, request: pytest.FixtureRequest
) -> Iterator[ModelHarness]:
    """The same model with a store of its own, and the proxy between it and the broker."""
    twin = direct_harness.twin(model_name_for(request.node.nodeid))
    twin.bootstrap_servers = f"127.0.0.1:{node.proxy.port}"
    yield twin
    node.proxy.delay_seconds, node.proxy.frozen = 0.0, False
    node.proxy.call_after(0, lambda: None)


def slow_down(node: Node) -> None:
    """From now on each piece of an answer is 300 ms late."""
    node.proxy.delay_seconds = 0.3


def kill_and_restart(node: Node) -> None:
    node.send_signal(signal.SIGKILL)
    node.start()


def pause_briefly(node: Node) -> None:
    node.send_signal(signal.SIGSTOP)
    time.sleep(3)
    node.send_signal(signal.SIGCONT)


@pytest.mark.parametrize(
    "harm",
    [
        lambda node: node.proxy.close_all(),
        lambda node: node.proxy.reset_all(),
        slow_down,
        pause_briefly,
        kill_and_restart,
    ],
    ids=["close", "reset", "300 ms late", "stopped for 3 s", "kill -9 and back"],
)
def test_a_read_goes_on_after_what_passes(
    proxied_harness: ModelHarness, node: Node, expected: StoreSnapshot, harm: Callable[[Node], None]
) -> None:
    """Row 7."""
    assert extract_during_fault(proxied_harness, node, partial(harm, node)) is None
    node.proxy.delay_seconds = 0.0
    assert_recovers(expected, proxied_harness, node)


def limit_bytes(node: Node) -> None:
    """From now on a connection ends when it has given so much: less than one fetch of a read."""
    node.proxy.close_all()
    node.proxy.call_after(_FAULT_AFTER_BYTES, partial(limit_bytes, node))


def freeze(node: Node) -> None:
    node.proxy.frozen = True


def heal(node: Node) -> None:
    node.proxy.frozen = False
    node.proxy.call_after(0, lambda: None)
    node.proxy.close_all()
    if node.process.poll() is not None:
        node.start()
    wait_until(node.is_ready, 60, node.log_tail)


@pytest.mark.parametrize(
    "harm",
    [limit_bytes, freeze, lambda node: node.signal(signal.SIGKILL)],
    ids=["limit", "hang", "kill -9"],
)
def test_what_does_not_pass_is_named_in_time_and_leaves_the_window_planned(
    proxied_harness: ModelHarness, node: Node, expected: StoreSnapshot, harm: Callable[[Node], None]
) -> None:
    """Row 7."""
    proxied_harness.timeout = 4
    seconds = extract_during_fault(proxied_harness, node, partial(harm, node))
    assert seconds is not None
    assert seconds < 2 * proxied_harness.timeout + 5
    heal(node)
    proxied_harness.timeout = 30
    assert_recovers(expected, proxied_harness, node)


def test_a_broker_that_is_stopped_for_a_minute_is_named_in_time_and_wakes_unharmed(
    proxied_harness: ModelHarness, node: Node, expected: StoreSnapshot
) -> None:
    """Row 7."""
    proxied_harness.timeout, begun = 20, time.monotonic()
    seconds = extract_during_fault(proxied_harness, node, partial(node.send_signal, signal.SIGSTOP))
    assert seconds is not None
    assert seconds < 2 * proxied_harness.timeout + 5
    time.sleep(max(0.0, begun + 60 - time.monotonic()))
    node.send_signal(signal.SIGCONT)
    wait_until(node.is_ready, 60, node.log_tail)
    proxied_harness.timeout = 30
    assert_recovers(expected, proxied_harness, node)


def elect_preferred_leaders(first: Node, topic: str) -> None:
    """Let the preferred node lead each partition again."""
    admin = AdminClient({"bootstrap.servers": f"127.0.0.1:{first.direct_port}"})
    partitions = [TopicPartition(topic, p) for p in leader_by_partition(first, topic)]
    admin.elect_leaders(ElectionType.PREFERRED, partitions).result(30)


def test_a_leader_that_changes_in_the_midst_of_a_window_changes_no_byte(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """Row 8: by kill -9, by election while both live, and by a stop in order."""
    with kafka_cluster(tmp_path_factory.mktemp("nodes"), 2) as (first, second):
        bench = make_harness(first, tmp_path_factory.mktemp("two"), replicas=2)
        wait_until(lambda: all_in_sync(first, bench.model, 2), 60, second.log_tail)
        expected = run_undisturbed(bench)

        def ends_alike(name: str, at: Node, harm: Callable[[], None]) -> None:
            twin = bench.twin(name)
            twin.bootstrap_servers = f"127.0.0.1:{first.proxy.port}"
            before = leader_by_partition(first, bench.model)
            assert extract_during_fault(twin, at, harm) is None, name
            wait_until(
                lambda: leader_by_partition(first, bench.model) != before, 60, first.log_tail
            )
            assert_recovers(expected, twin, first)

        assert set(leader_by_partition(first, bench.model).values()) == {1, 2}
        ends_alike("killed", second, partial(second.send_signal, signal.SIGKILL))
        assert set(leader_by_partition(first, bench.model).values()) == {1}
        second.start()
        wait_until(lambda: all_in_sync(first, bench.model, 2), 60, second.log_tail)
        ends_alike("elected", first, partial(elect_preferred_leaders, first, bench.model))
        assert set(leader_by_partition(first, bench.model).values()) == {1, 2}
        ends_alike("stopped", second, partial(second.send_signal, signal.SIGTERM))
