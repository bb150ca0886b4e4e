"""Images as layer folders with their configuration.

They come from the project's Dockerfiles, or stand in for the official images of Kafka and
PostgreSQL with this machine's programs.
"""

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
from container_root import PATH, ContainerSpec, Mount
from postgres_server import require_postgres
from tidemill.local.broker.jars import classpath, java, lockfile_folder
from tidemill.local.postgres import server

_SCRIPTS = Path(__file__).parent / "official_images"
_DUMB_INIT = Path(sys.executable).with_name("dumb-init")
"""The init process of a container with `init: true`."""


@dataclass(frozen=True)
class Image:
    """An image: the defaults of its containers, which a service may override."""

    layer: Path
    entrypoint: tuple[str, ...]
    command: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    user: str = "0:0"
    workdir: str = "/"
    mounts: tuple[Mount, ...] = ()
    stop_signal: signal.Signals = signal.SIGTERM


def container_spec(
    service: Service, image: Image, command: tuple[str, ...] | None = None
) -> ContainerSpec:
    """A service's container; with `command`, a one-off container as in `docker compose run`."""
    entrypoint = image.entrypoint if service.entrypoint is None else service.entrypoint
    image_command = image.command if service.entrypoint is None else ()
    default_command = image_command if service.command is None else service.command
    user, group = (service.user or image.user).split(":")
    init_command = ("/.init", "--single-child", "--") if service.init else ()
    init_mounts = (Mount("/.init", _DUMB_INIT, read_only=True),) if service.init else ()
    return ContainerSpec(
        service.name,
        image.layer,
        (*init_command, *entrypoint, *(default_command if command is None else command)),
        {**image.env, **service.env},
        (int(user), int(group)),
        image.workdir,
        (*image.mounts, *init_mounts, *service.mounts),
        service.read_only,
        service.no_new_privileges,
        service.no_capabilities,
        service.stop_signal or image.stop_signal,
        service.grace_seconds,
    )


def project_image(image: str, layer: Path) -> Image:
    """The image of the project's Dockerfile of this name; `layer` is what it adds to its base."""
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
    """A stand-in for PostgreSQL's official image. Skips the test if it is not installed."""
    require_postgres()
    programs = server.find_program("postgres", Path(os.devnull)).parent
    _write_passwd(layer, "postgres", 999, "/var/lib/postgresql")
    _make_folder(layer / "var/lib/postgresql/data", 999, 0o1777)
    _make_folder(layer / "run/postgresql", 999, 0o3777)
    _make_folder(layer / "docker-entrypoint-initdb.d", 0, 0o755)
    shutil.copy(_SCRIPTS / "postgres.sh", layer / "entrypoint")
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
    """A stand-in for Apache Kafka's official image, with the jars and Java tidemill pins."""
    _write_passwd(layer, "appuser", 1000, "/home/appuser")
    for name in ("opt/kafka/config", "mnt/shared/config", "var/lib/kafka/data"):
        _make_folder(layer / name, 1000, 0o755)
    _make_folder(layer / "etc/kafka/docker", 1000, 0o755)
    _make_folder(layer / "opt/kafka/libs", 0, 0o755)
    for jar in classpath(lockfile_folder()):
        shutil.copy(jar, layer / "opt/kafka/libs")
    shutil.copy(_SCRIPTS / "kafka.sh", layer / "etc/kafka/docker/run")
    home = java(lockfile_folder()).resolve().parents[1]
    return Image(
        layer,
        (),
        ("/etc/kafka/docker/run",),
        {"PATH": f"/opt/java/openjdk/bin:{PATH['PATH']}", "LANG": "C.UTF-8"},
        "1000:1000",
        mounts=(Mount("/opt/java/openjdk", home, read_only=True),),
    )


def create_volume(folder: Path, image: Image, target: str) -> None:
    """Create a named volume at first use, with the image's content of its target."""
    if folder.exists():
        return
    image_folder = image.layer / target.lstrip("/")
    if not image_folder.is_dir():  # an engine creates it, owned by root
        folder.mkdir(parents=True)
        return
    shutil.copytree(image_folder, folder)
    status = image_folder.stat()
    os.chown(folder, status.st_uid, status.st_gid)
    folder.chmod(status.st_mode)


def _write_passwd(layer: Path, name: str, uid: int, home: str) -> None:
    (layer / "etc").mkdir(parents=True)
    accounts = {"root": (0, "/root"), name: (uid, home)}
    (layer / "etc/passwd").write_text(
        "".join(f"{user}:x:{n}:{n}::{folder}:/bin/bash\n" for user, (n, folder) in accounts.items())
    )


def _make_folder(path: Path, owner: int, mode: int) -> None:
    path.mkdir(parents=True)
    os.chown(path, owner, owner)
    path.chmod(mode)
