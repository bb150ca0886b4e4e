"""Kafka nodes of a test's own, each behind a proxy: to be killed, stopped, cut off, truncated."""

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from commands import until
from dagster_ui import free_port
from tcp_proxy import Proxy, proxied
from tidemill.adapters.broker.jars import classpath, java, lockfile_folder

_JVM = ("-Xms128m", "-Xmx384m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")
_CLUSTER = "tidemilltesttidemillte"
_PROPERTIES = """\
process.roles={roles}
node.id={number}
controller.quorum.voters=1@127.0.0.1:{controller}
listeners={listeners}
advertised.listeners=INNER://127.0.0.1:{inner},PROXIED://127.0.0.1:{proxied}
controller.listener.names=CONTROLLER
inter.broker.listener.name=INNER
listener.security.protocol.map=INNER:PLAINTEXT,PROXIED:PLAINTEXT,CONTROLLER:PLAINTEXT
log.dirs={data}
auto.create.topics.enable=false
default.replication.factor={nodes}
offsets.topic.replication.factor={nodes}
broker.session.timeout.ms=2000
broker.heartbeat.interval.ms=500
replica.lag.time.max.ms=2000
"""


@dataclass
class Node:
    """One Kafka process; `inner` reaches it directly, `proxy` in the way of clients under test."""

    number: int
    folder: Path
    inner: int
    proxy: Proxy
    process: "subprocess.Popen[bytes]" = field(init=False)

    @property
    def data(self) -> Path:
        """Its folder of logs."""
        return self.folder / "data"

    def start(self) -> None:
        with (self.folder / "broker.log").open("ab") as log:
            self.process = subprocess.Popen(
                [*_java(), "kafka.Kafka", str(self.folder / "server.properties")],
                cwd=self.folder,
                env={"LANG": "C.UTF-8"},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def signal(self, number: int) -> None:
        """Send a signal; wait for its end where there is no other outcome."""
        os.kill(self.process.pid, number)
        if number in (signal.SIGKILL, signal.SIGTERM):
            self.process.wait(60)

    def answers(self) -> bool:
        try:
            AdminClient(_quiet(self.inner)).list_topics(timeout=2)
        except KafkaException:
            assert self.process.poll() is None, self.said()
            return False
        return True

    def said(self) -> str:
        return (self.folder / "broker.log").read_text(errors="replace")[-3_000:]


@contextmanager
def kafka_nodes(home: Path, count: int) -> Iterator[list[Node]]:
    """A cluster of so many nodes; the first is its controller, and all are brokers."""
    controller = free_port()
    with ExitStack() as stack:
        nodes = [_node(stack, home / str(n), n, controller, count) for n in range(1, count + 1)]
        for node in nodes:
            node.start()
            stack.callback(_end, node)
        for node in nodes:
            until(node.answers, 60, node.said)
        until(lambda: len(_cluster(nodes[0]).brokers) == count, 60, nodes[-1].said)
        yield nodes


def leaders(node: Node, topic: str) -> dict[int, int]:
    """The number of each partition's leading node, as this node knows it."""
    return {p: told.leader for p, told in _cluster(node).topics[topic].partitions.items()}


def in_sync(node: Node, topic: str, count: int) -> bool:
    """Whether every partition of the topic has so many replicas in sync."""
    partitions = _cluster(node).topics[topic].partitions.values()
    return all(len(each.isrs) == count for each in partitions)


def _cluster(node: Node):  # type: ignore[no-untyped-def]
    return AdminClient(_quiet(node.inner)).list_topics(timeout=10)


def _quiet(port: int) -> dict[str, object]:
    return {"bootstrap.servers": f"127.0.0.1:{port}", "log_level": 0, "error_cb": lambda _: None}


def _node(stack: ExitStack, folder: Path, number: int, controller: int, nodes: int) -> Node:
    folder.mkdir(parents=True)
    inner, outer = free_port(), free_port()
    proxy = stack.enter_context(proxied(outer, free_port()))
    listeners = f"INNER://127.0.0.1:{inner},PROXIED://127.0.0.1:{outer}"
    if number == 1:
        listeners += f",CONTROLLER://127.0.0.1:{controller}"
    (folder / "server.properties").write_text(
        _PROPERTIES.format(
            roles="broker,controller" if number == 1 else "broker",
            number=number,
            controller=controller,
            listeners=listeners,
            inner=inner,
            proxied=proxy.port,
            data=folder / "data",
            nodes=nodes,
        )
    )
    words = ["kafka.tools.StorageTool", "format", f"--cluster-id={_CLUSTER}", "-c"]
    subprocess.run(
        [*_java(), *words, str(folder / "server.properties")],
        env={"LANG": "C.UTF-8"},
        capture_output=True,
        check=True,
    )
    return Node(number, folder, inner, proxy)


def _java() -> list[str]:
    jars = os.pathsep.join(map(str, classpath(lockfile_folder())))
    quiet = "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn"
    return [str(java(lockfile_folder())), *_JVM, quiet, "-cp", jars]


def _end(node: Node) -> None:
    if node.process.poll() is None:
        node.process.kill()
    node.process.wait(60)
