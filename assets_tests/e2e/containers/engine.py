"""A Docker Engine for tests: the one of `DOCKER_HOST`, or a daemon on a socket of its own.

Where no image registry can be reached, the official images are replaced by images that are built on
the spot from Debian's packages and the jars that tidemill pins: `official_images/`.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from support.processes.commands import wait_until
from support.processes.required_tools import require_tools
from tidemill.local.broker.jars import classpath, java, lockfile_folder

ROOT = Path(__file__).parents[3]
INSTALLED = Path("/usr/local/lib/docker-engine")
"""Where `make tools` unpacks the engine."""
IMAGES = ("serving", "airflow", "platform")
_SCRIPTS = Path(__file__).parent / "official_images"
_COMPOSE_FILE = ROOT / "deploy" / "compose.yaml"
_CA_BUNDLE = Path("/etc/ssl/certs/ca-certificates.crt")
_MIN_VERSION = 25
_PROJECT = "tidemill-test"
"""Not the name in the compose file: `down --volumes` must not delete a real platform's data."""


@dataclass(frozen=True)
class DockerEngine:
    """A running engine and the clients that reach it."""

    env: Mapping[str, str]
    docker: str

    def run(self, *args: str, timeout: float = 300, check: bool = True) -> str:
        """The output of a `docker` command. Fails the test if the command fails."""
        return _output(self.env, [self.docker, *args], timeout, check)

    def compose(self, file: Path, *args: str, timeout: float = 300, check: bool = True) -> str:
        """The output of a Compose command on this file."""
        program = Path(sys.executable).with_name("docker-compose")
        options = ("--project-name", _PROJECT, "--file", str(file))
        return _output(self.env, [str(program), *options, *args], timeout, check)

    def build(self, tag: str, dockerfile: Path, context: Path) -> None:
        self.run(
            *("build", "--quiet", "--network", "host", "--tag", tag),
            *("--file", str(dockerfile), str(context)),
            timeout=900,
        )

    def build_project_images(self) -> None:
        """Build `tidemill-NAME` from each Dockerfile of `deploy/docker/`."""
        for name in IMAGES:
            dockerfile = ROOT / "deploy" / "docker" / f"{name}.Dockerfile"
            self.build(f"tidemill-{name}", dockerfile, ROOT)


def _output(env: Mapping[str, str], command: list[str], timeout: float, check: bool) -> str:
    result = subprocess.run(
        command,
        env=dict(env),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=timeout,
        check=False,
    )
    assert not check or result.returncode == 0, (
        command,
        result.stdout[-3000:],
        result.stderr[-3000:],
    )
    return result.stdout


@contextmanager
def running_engine(folder: Path) -> Iterator[DockerEngine]:
    """An engine with the images that the compose file names; its own data end with the context."""
    if "DOCKER_HOST" in os.environ:
        (docker,) = require_tools("docker")
        engine = DockerEngine(dict(os.environ), docker)
        engine.build_project_images()
        yield engine
        return
    require_tools("mmdebstrap", "iptables", "containerd")
    if os.geteuid() != 0 or not (INSTALLED / "usr/sbin/dockerd").exists():
        pytest.skip("not run: there is no DOCKER_HOST, and no engine of `make tools` run as root")
    with _daemon(folder) as engine:
        _build_official_images(engine, folder)
        engine.build_project_images()
        yield engine


@contextmanager
def _daemon(folder: Path) -> Iterator[DockerEngine]:
    """A Docker daemon with all of its data in `folder`, stopped by its process id at the end."""
    programs, config = INSTALLED / "usr", folder / "config"
    config.mkdir(parents=True)
    plugins = {"cliPluginsExtraDirs": [str(programs / "libexec/docker/cli-plugins")]}
    (config / "config.json").write_text(json.dumps(plugins))
    socket, log_file = folder / "docker.sock", folder / "dockerd.log"
    path = f"{programs / 'bin'}:{programs / 'sbin'}:{os.environ['PATH']}:/usr/sbin"
    env = {
        **os.environ,
        "PATH": path,
        "DOCKER_HOST": f"unix://{socket}",
        "DOCKER_CONFIG": str(config),
    }
    command = [
        *(str(programs / "sbin/dockerd"), "--host", env["DOCKER_HOST"]),
        *("--data-root", str(folder / "data"), "--exec-root", str(folder / "exec")),
        *("--pidfile", str(folder / "dockerd.pid"), "--default-ulimit", "nofile=20000:20000"),
    ]
    engine = DockerEngine(env, str(programs / "bin/docker"))
    with log_file.open("w") as log:
        process = subprocess.Popen(command, env=env, stdout=log, stderr=log)
    try:
        wait_until(
            lambda: process.poll() is not None or _server_version(engine),
            timeout=60,
            on_timeout=lambda: log_file.read_text()[-3000:],
        )
        assert process.poll() is None, log_file.read_text()[-3000:]
        assert int(_server_version(engine).partition(".")[0]) >= _MIN_VERSION
        yield engine
    finally:
        containers = engine.run("ps", "--quiet", check=False).split()
        if containers:
            engine.run("kill", *containers, check=False)
        process.send_signal(signal.SIGTERM)
        process.wait(120)


def _server_version(engine: DockerEngine) -> str:
    """The version of the daemon; empty until it answers."""
    return engine.run("version", "--format", "{{.Server.Version}}", check=False).strip()


def _build_official_images(engine: DockerEngine, folder: Path) -> None:
    """Images under the tags that the compose file and the Dockerfiles name."""
    root_file = folder / "rootfs.tar"
    packages = "python3,python3-pip,python3-venv,ca-certificates"
    subprocess.run(
        [
            "mmdebstrap",
            "--quiet",
            "--variant=minbase",
            f"--include={packages}",
            "bookworm",
            root_file,
        ],
        check=True,
        timeout=600,
        capture_output=True,
    )
    engine.run("import", str(root_file), "debian-bookworm")
    root_file.unlink()
    context = folder / "context"
    shutil.copytree(_SCRIPTS, context)
    shutil.copy(_CA_BUNDLE, context)
    (context / "libs").mkdir()
    for jar in classpath(lockfile_folder()):
        shutil.copy(jar, context / "libs")
    shutil.copytree(java(lockfile_folder()).resolve().parents[1], context / "java")
    compose, dockerfile = _COMPOSE_FILE.read_text(), ROOT / "deploy/docker/platform.Dockerfile"
    tags = {
        "python": _first(r"^FROM (python:\S+)", dockerfile.read_text()),
        "postgres": _first(r"image: (postgres:\S+)", compose),
        "kafka": _first(r"image: (apache/kafka:\S+)", compose),
    }
    for name, tag in tags.items():
        engine.build(tag, context / f"{name}.Dockerfile", context)


def _first(pattern: str, text: str) -> str:
    match = re.search(pattern, text, re.MULTILINE)
    assert match is not None, pattern
    return match[1]
