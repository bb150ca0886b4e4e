"""The process of the embedded broker: its configuration, its ports, its start."""

import base64
import json
import os
import socket
import subprocess
import uuid
from pathlib import Path

import psutil

from tidemill.core.errors import PrerequisiteMissing
from tidemill.local.broker.jars import classpath, java, lockfile_folder
from tidemill.polling import retry
from tidemill.processes import spawn_daemon
from tidemill.textfile import atomic_write_text

PORT_BIND_TIMEOUT_SECONDS = 5
_MAX_LOG_BYTES = 10_000_000

_JVM = ("-Xms256m", "-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")
_PROPERTIES = """\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
listeners=PLAINTEXT://127.0.0.1:{broker},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{broker}
controller.listener.names=CONTROLLER
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
log.dirs={data}
auto.create.topics.enable=false
offsets.topic.replication.factor=1
offsets.topic.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
share.coordinator.state.topic.num.partitions=1
group.initial.rebalance.delay.ms=0
broker.session.timeout.ms=2000
broker.heartbeat.interval.ms=500
"""
# The session timeout is 2 s instead of 9: a killed broker can restart only when its old session has
# ended. Broker and controller are one process, so a pause stops both clocks together.


def launch(folder: Path) -> tuple[psutil.Process, int]:
    """Format the folder on first use, start the process, and return it and its port.

    Raises `PrerequisiteMissing`, `DigestMismatch` (a jar).
    """
    lockfiles = lockfile_folder()
    jars = os.pathsep.join(str(jar) for jar in classpath(lockfiles))
    port, controller = _ports(folder)
    temp_folder = folder / "tmp"
    temp_folder.mkdir(exist_ok=True)
    properties = folder / "server.properties"
    atomic_write_text(
        properties, _PROPERTIES.format(broker=port, controller=controller, data=folder / "data")
    )
    options = (
        *_JVM,
        f"-Djava.io.tmpdir={temp_folder}",
        "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
        "-Dorg.slf4j.simpleLogger.showDateTime=true",
    )
    command = [str(java(lockfiles)), *options, "-cp", jars]
    log_file = folder / "broker.log"
    if log_file.is_file() and log_file.stat().st_size > _MAX_LOG_BYTES:
        log_file.replace(folder / "broker.log.1")
    if not (folder / "data" / "meta.properties").is_file():
        _format(command, folder, properties)
    return spawn_daemon([*command, "kafka.Kafka", str(properties)], log_file, cwd=folder), port


def _format(command: list[str], folder: Path, properties: Path) -> None:
    cluster_id = base64.urlsafe_b64encode(uuid.uuid4().bytes).rstrip(b"=").decode()
    storage_tool = ("kafka.tools.StorageTool", "format", "--ignore-formatted")
    # With `=`, because an id may begin with a dash.
    options = ("-c", str(properties), f"--cluster-id={cluster_id}")
    result = subprocess.run(
        [*command, *storage_tool, *options],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        env={"LANG": "C.UTF-8"},
        check=False,
    )
    if result.returncode:
        output = (result.stdout + result.stderr).decode(errors="replace")[-2000:]
        raise PrerequisiteMissing(
            f"The embedded broker could not format {folder / 'data'}: {output.strip()}.",
            "Check that the folder is writable and the disk has space.",
        )


def _ports(folder: Path) -> tuple[int, int]:
    """The broker's and the controller's port: the previous ones, unless they are in use."""
    path = folder / "ports.json"
    try:
        port, controller = json.loads(path.read_text())
    except (FileNotFoundError, ValueError, TypeError):
        port = controller = 0
    with _bind_socket(port) as first, _bind_socket(controller) as second:
        ports = first.getsockname()[1], second.getsockname()[1]
    atomic_write_text(path, json.dumps(ports))
    return ports


def _bind_socket(port: int) -> socket.socket:
    """A socket bound to this port, or to a free one; like Kafka's, it ignores TIME_WAIT."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    # A process that was just killed may still hold its port and the lock of its data.
    try:
        retry(
            lambda: sock.bind(("127.0.0.1", port)),
            lambda error: isinstance(error, OSError),
            PORT_BIND_TIMEOUT_SECONDS,
        )
    except OSError:
        sock.bind(("127.0.0.1", 0))
    return sock
