"""Private Kafka nodes, each behind a proxy, to be killed, stopped, isolated or truncated."""

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from support.processes.commands import wait_until
from support.servers.http import free_port
from support.servers.tcp_fault_proxy import TcpProxy, running_tcp_proxy
from tidemill.local.broker.jars import classpath, java, lockfile_folder

_JVM_OPTIONS = ("-Xms128m", "-Xmx384m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")
_CLUSTER_ID = "tidemilltesttidemillte"
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
    """One Kafka process, reached on `direct_port`, or through `proxy` by clients under test."""

    number: int
    folder: Path
    direct_port: int
    proxy: TcpProxy
    process: "subprocess.Popen[bytes]" = field(init=False)

    @property
    def log_dir(self) -> Path:
        """The folder of its partitions' logs."""
        return self.folder / "data"

    def start(self) -> None:
        with (self.folder / "broker.log").open("ab") as log:
            self.process = subprocess.Popen(
                [*_java_command(), "kafka.Kafka", str(self.folder / "server.properties")],
                cwd=self.folder,
                env={"LANG": "C.UTF-8"},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def send_signal(self, number: int) -> None:
        """Send a signal; if it terminates the process, wait for that."""
        os.kill(self.process.pid, number)
        if number in (signal.SIGKILL, signal.SIGTERM):
            self.process.wait(60)

    def is_ready(self) -> bool:
        try:
            AdminClient(_client_config(self.direct_port)).list_topics(timeout=2)
        except KafkaException:
            assert self.process.poll() is None, self.log_tail()
            return False
        return True

    def log_tail(self) -> str:
        return (self.folder / "broker.log").read_text(errors="replace")[-3_000:]


@contextmanager
def kafka_cluster(home: Path, count: int) -> Iterator[list[Node]]:
    """A cluster of `count` brokers, the first of which is also the controller."""
    controller = free_port()
    with ExitStack() as stack:
        nodes = [
            _make_node(stack, home / str(n), n, controller, count) for n in range(1, count + 1)
        ]
        for node in nodes:
            node.start()
            stack.callback(_stop, node)
        for node in nodes:
            wait_until(node.is_ready, 60, on_timeout=node.log_tail)
        wait_until(
            lambda: len(_cluster_metadata(nodes[0]).brokers) == count,
            60,
            on_timeout=nodes[-1].log_tail,
        )
        yield nodes


def leader_by_partition(node: Node, topic: str) -> dict[int, int]:
    """The leader of each partition, as this node reports it."""
    return {
        p: metadata.leader
        for p, metadata in _cluster_metadata(node).topics[topic].partitions.items()
    }


def all_in_sync(node: Node, topic: str, count: int) -> bool:
    """Whether every partition of the topic has `count` in-sync replicas."""
    partitions = _cluster_metadata(node).topics[topic].partitions.values()
    return all(len(each.isrs) == count for each in partitions)


def _cluster_metadata(node: Node):  # type: ignore[no-untyped-def]
    return AdminClient(_client_config(node.direct_port)).list_topics(timeout=10)


def _client_config(port: int) -> dict[str, object]:
    return {"bootstrap.servers": f"127.0.0.1:{port}", "log_level": 0, "error_cb": lambda _: None}


def _make_node(stack: ExitStack, folder: Path, number: int, controller: int, nodes: int) -> Node:
    folder.mkdir(parents=True)
    inner, outer = free_port(), free_port()
    proxy = stack.enter_context(running_tcp_proxy(outer, free_port()))
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
    format_command = ["kafka.tools.StorageTool", "format", f"--cluster-id={_CLUSTER_ID}", "-c"]
    subprocess.run(
        [*_java_command(), *format_command, str(folder / "server.properties")],
        env={"LANG": "C.UTF-8"},
        capture_output=True,
        check=True,
    )
    return Node(number, folder, inner, proxy)


def _java_command() -> list[str]:
    jars = os.pathsep.join(map(str, classpath(lockfile_folder())))
    quiet = "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn"
    return [str(java(lockfile_folder())), *_JVM_OPTIONS, quiet, "-cp", jars]


def _stop(node: Node) -> None:
    if node.process.poll() is None:
        node.process.kill()
    node.process.wait(60)
