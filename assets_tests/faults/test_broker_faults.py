"""The broker is killed, stopped, isolated or slow during a read: it resumes or fails in time."""

import signal
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from confluent_kafka import ElectionType, TopicPartition

from faults.kafka_nodes import Node, all_in_sync, kafka_cluster, leader_by_partition
from support.kafka.clients import admin_client
from support.models import oracle
from support.models.harness import SPEC, ModelHarness, model_name_for, run_window
from support.models.store_snapshot import StoreSnapshot, take_snapshot
from support.processes.commands import wait_until
from tidemill.core.errors import LogUnavailable
from tidemill.cycle.planning.plan import plan_window
from tidemill.cycle.steps.extract import extract
from tidemill.cycle.steps.initial import initial

pytestmark = [pytest.mark.faults, pytest.mark.timeout(600)]

_ROWS = 4_000
_FAULT_AFTER_BYTES = 100_000
"""Response bytes after which a fault is injected, about a quarter of a window's records."""


def make_harness(node: Node, home: Path, replicas: int) -> ModelHarness:
    """A harness connected to the node directly, with a closed window of `_ROWS` rows."""
    new_harness = ModelHarness(
        f"127.0.0.1:{node.direct_port}", home, model_name_for("harmed"), replicas=replicas
    )
    new_harness.define(windows=SPEC["windows"] | {"confirmation_records": 20})
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
    """Inject a fault while window 0 is read; the seconds until the read failed, None if it did not.

    A failure must leave the window planned, and nothing of its batch.
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
            print(error)  # for the report of a failed test
        assert injected_at, "no fault was injected"
        if failure is None:
            return None
        elapsed = time.monotonic() - injected_at[0]
        assert f"Kafka at {twin.bootstrap_servers}" in failure.message
        assert list(ctx.repository.names("")) == before
        return elapsed


def assert_recovers(expected: StoreSnapshot, twin: ModelHarness, node: Node) -> None:
    """Assert that a rerun gives the same bytes as an undisturbed run, and run the oracle."""
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
    """The same model with a separate store, connected to the broker through the proxy."""
    twin = direct_harness.twin(model_name_for(request.node.nodeid))
    twin.bootstrap_servers = f"127.0.0.1:{node.proxy.port}"
    yield twin
    node.proxy.delay_seconds, node.proxy.frozen = 0.0, False
    node.proxy.call_after(0, lambda: None)


def slow_down(node: Node) -> None:
    """Delay each chunk of a response by 300 ms from now on."""
    node.proxy.delay_seconds = 0.3


def kill_and_restart(node: Node) -> None:
    node.send_signal(signal.SIGKILL)
    node.start()


def pause_briefly(node: Node) -> None:
    node.send_signal(signal.SIGSTOP)
    time.sleep(3)
    node.send_signal(signal.SIGCONT)


@pytest.mark.parametrize(
    "inject_fault",
    [
        lambda node: node.proxy.close_all(),
        lambda node: node.proxy.reset_all(),
        slow_down,
        pause_briefly,
        kill_and_restart,
    ],
    ids=["close", "reset", "300 ms late", "stopped for 3 s", "kill -9 and restart"],
)
def test_a_read_resumes_after_a_transient_fault(
    proxied_harness: ModelHarness,
    node: Node,
    expected: StoreSnapshot,
    inject_fault: Callable[[Node], None],
) -> None:
    """Fault 7."""
    assert extract_during_fault(proxied_harness, node, partial(inject_fault, node)) is None
    node.proxy.delay_seconds = 0.0
    assert_recovers(expected, proxied_harness, node)


def limit_bytes(node: Node) -> None:
    """Close each connection after a number of bytes smaller than one fetch, from now on."""
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
    wait_until(node.is_ready, 60, on_timeout=node.log_tail)


@pytest.mark.parametrize(
    "inject_fault",
    [limit_bytes, freeze, lambda node: node.send_signal(signal.SIGKILL)],
    ids=["limit", "hang", "kill -9"],
)
def test_a_permanent_fault_is_reported_in_time_and_leaves_the_window_planned(
    proxied_harness: ModelHarness,
    node: Node,
    expected: StoreSnapshot,
    inject_fault: Callable[[Node], None],
) -> None:
    """Fault 7."""
    proxied_harness.timeout = 4
    seconds = extract_during_fault(proxied_harness, node, partial(inject_fault, node))
    assert seconds is not None
    assert seconds < 2 * proxied_harness.timeout + 5
    heal(node)
    proxied_harness.timeout = 30
    assert_recovers(expected, proxied_harness, node)


def test_a_broker_stopped_for_a_minute_is_reported_in_time_and_resumes_unharmed(
    proxied_harness: ModelHarness, node: Node, expected: StoreSnapshot
) -> None:
    """Fault 7."""
    proxied_harness.timeout, started_at = 20, time.monotonic()
    seconds = extract_during_fault(proxied_harness, node, partial(node.send_signal, signal.SIGSTOP))
    assert seconds is not None
    assert seconds < 2 * proxied_harness.timeout + 5
    time.sleep(max(0.0, started_at + 60 - time.monotonic()))
    node.send_signal(signal.SIGCONT)
    wait_until(node.is_ready, 60, on_timeout=node.log_tail)
    proxied_harness.timeout = 30
    assert_recovers(expected, proxied_harness, node)


def elect_preferred_leaders(first: Node, topic: str) -> None:
    """Make the preferred replica of each partition its leader again."""
    admin = admin_client(f"127.0.0.1:{first.direct_port}")
    partitions = [TopicPartition(topic, p) for p in leader_by_partition(first, topic)]
    admin.elect_leaders(ElectionType.PREFERRED, partitions).result(30)


def test_a_leader_change_during_a_read_changes_no_byte(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """Fault 8: by kill -9, by election while both run, and by an orderly shutdown."""
    with kafka_cluster(tmp_path_factory.mktemp("nodes"), 2) as (first, second):
        harness = make_harness(first, tmp_path_factory.mktemp("two"), replicas=2)
        wait_until(lambda: all_in_sync(first, harness.model, 2), 60, on_timeout=second.log_tail)
        expected = run_undisturbed(harness)

        def assert_same_result(name: str, node: Node, inject_fault: Callable[[], None]) -> None:
            twin = harness.twin(name)
            twin.bootstrap_servers = f"127.0.0.1:{first.proxy.port}"
            before = leader_by_partition(first, harness.model)
            assert extract_during_fault(twin, node, inject_fault) is None, name
            wait_until(
                lambda: leader_by_partition(first, harness.model) != before,
                60,
                on_timeout=first.log_tail,
            )
            assert_recovers(expected, twin, first)

        assert set(leader_by_partition(first, harness.model).values()) == {1, 2}
        assert_same_result("killed", second, partial(second.send_signal, signal.SIGKILL))
        assert set(leader_by_partition(first, harness.model).values()) == {1}
        second.start()
        wait_until(lambda: all_in_sync(first, harness.model, 2), 60, on_timeout=second.log_tail)
        assert_same_result("elected", first, partial(elect_preferred_leaders, first, harness.model))
        assert set(leader_by_partition(first, harness.model).values()) == {1, 2}
        assert_same_result("stopped", second, partial(second.send_signal, signal.SIGTERM))
