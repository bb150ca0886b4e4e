"""Images, as folders to lay under a container, and what they say beside: from Dockerfiles, and
the official ones of Kafka and PostgreSQL on the programs that this machine has."""

import json
import os
import shutil
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from dockerfile_parse import DockerfileParser

from builder import dockerfile
from compose_file import Service
from container_root import PATH, Mount, Wanted
from postgres_server import require_postgres
from tidemill.local.broker.jars import classpath, java, lockfile_folder
from tidemill.local.postgres import server

_OURS = Path(__file__).parent / "official_images"
_INIT = Path(sys.executable).with_name("dumb-init")
"""The first process of a container that asks for one."""


@dataclass(frozen=True)
class Image:
    """What a container of it has where its service says nothing else."""

    layer: Path
    entrypoint: tuple[str, ...]
    command: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    user: str = "0:0"
    workdir: str = "/"
    mounts: tuple[Mount, ...] = ()
    stop_signal: signal.Signals = signal.SIGTERM


def wanted(service: Service, image: Image, command: tuple[str, ...] | None = None) -> Wanted:
    """The container of a service; with a command, one more of it, as `docker compose run` has."""
    entrypoint = image.entrypoint if service.entrypoint is None else service.entrypoint
    own = image.command if service.entrypoint is None else ()
    said = own if service.command is None else service.command
    user, group = (service.user or image.user).split(":")
    first = ("/.init", "--single-child", "--") if service.init else ()
    init = (Mount("/.init", _INIT, read_only=True),) if service.init else ()
    return Wanted(
        service.name,
        image.layer,
        (*first, *entrypoint, *(said if command is None else command)),
        {**image.environment, **service.environment},
        (int(user), int(group)),
        image.workdir,
        (*image.mounts, *init, *service.mounts),
        service.read_only,
        service.no_new_privileges,
        service.no_capabilities,
        service.stop_signal or image.stop_signal,
        service.grace,
    )


def ours(image: str, layer: Path) -> Image:
    """The image that our Dockerfile of this name describes; what it adds to its base is `layer`."""
    parser = DockerfileParser(str(dockerfile(image)), parent_env=PATH)
    last: dict[str, str] = {}
    for step in parser.structure:
        if step["instruction"] == "FROM":
            last = {}
        last[step["instruction"]] = step["value"]
    return Image(
        layer,
        tuple(json.loads(last.get("ENTRYPOINT", "[]"))),
        tuple(json.loads(last.get("CMD", "[]"))),
        parser.envs,
        last.get("USER", "0:0"),
        last.get("WORKDIR", "/"),
        stop_signal=signal.Signals[last.get("STOPSIGNAL", "SIGTERM")],
    )


def postgres(layer: Path) -> Image:
    """The official image of PostgreSQL, with this machine's programs. Skips without them."""
    require_postgres()
    programs = server.find_program("postgres", Path(os.devnull)).parent
    _account(layer, "postgres", 999, "/var/lib/postgresql")
    _folder(layer / "var/lib/postgresql/data", 999, 0o1777)
    _folder(layer / "run/postgresql", 999, 0o3777)
    _folder(layer / "docker-entrypoint-initdb.d", 0, 0o755)
    shutil.copy(_OURS / "postgres.sh", layer / "entrypoint")
    return Image(
        layer,
        ("/entrypoint",),
        ("postgres",),
        {
            "PATH": f"{programs}:{PATH['PATH']}",
            "LANG": "C.UTF-8",
            "PGDATA": "/var/lib/postgresql/data",
        },
        stop_signal=signal.SIGINT,
    )


def kafka(layer: Path) -> Image:
    """Apache Kafka's own image, with the jars and the Java that tidemill pins."""
    _account(layer, "appuser", 1000, "/home/appuser")
    for name in ("opt/kafka/config", "mnt/shared/config", "var/lib/kafka/data"):
        _folder(layer / name, 1000, 0o755)
    _folder(layer / "etc/kafka/docker", 1000, 0o755)
    _folder(layer / "opt/kafka/libs", 0, 0o755)
    for jar in classpath(lockfile_folder()):
        shutil.copy(jar, layer / "opt/kafka/libs")
    shutil.copy(_OURS / "kafka.sh", layer / "etc/kafka/docker/run")
    home = java(lockfile_folder()).resolve().parents[1]
    return Image(
        layer,
        (),
        ("/etc/kafka/docker/run",),
        {"PATH": f"/opt/java/openjdk/bin:{PATH['PATH']}", "LANG": "C.UTF-8"},
        "1000:1000",
        mounts=(Mount("/opt/java/openjdk", home, read_only=True),),
    )


def volume(folder: Path, image: Image, target: str) -> None:
    """Make a named volume at its first use: it takes over what the image has there."""
    if folder.exists():
        return
    there = image.layer / target.lstrip("/")
    if not there.is_dir():  # an engine makes it, for root
        folder.mkdir(parents=True)
        return
    shutil.copytree(there, folder)
    told = there.stat()
    os.chown(folder, told.st_uid, told.st_gid)
    folder.chmod(told.st_mode)


def _account(layer: Path, name: str, number: int, home: str) -> None:
    (layer / "etc").mkdir(parents=True)
    accounts = {"root": (0, "/root"), name: (number, home)}
    (layer / "etc/passwd").write_text(
        "".join(f"{one}:x:{n}:{n}::{at}:/bin/bash\n" for one, (n, at) in accounts.items())
    )


def _folder(path: Path, owner: int, mode: int) -> None:
    path.mkdir(parents=True)
    os.chown(path, owner, owner)
    path.chmod(mode)
