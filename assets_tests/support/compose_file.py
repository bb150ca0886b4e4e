"""The services of a compose file, as Docker Compose itself parses it."""

import json
import re
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from container_root import PATH, Mount

_COMPOSE = Path(sys.executable).with_name("docker-compose")
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


@dataclass(frozen=True)
class HealthCheck:
    """A health check: its command in the container, and its times in seconds."""

    command: tuple[str, ...]
    interval: float
    timeout: float
    retries: int
    start_period: float
    start_interval: float


@dataclass(frozen=True)
class Service:
    """One service; None means the image's value.

    `build` is its Dockerfile, `dependencies` maps other services to the condition they must meet
    first, `ports` are (address, host port, container port).
    """

    name: str
    image: str
    build: str | None
    entrypoint: tuple[str, ...] | None
    command: tuple[str, ...] | None
    env: Mapping[str, str]
    user: str | None
    init: bool
    mounts: tuple[Mount, ...]
    read_only: bool
    no_new_privileges: bool
    no_capabilities: bool
    stop_signal: signal.Signals | None
    grace_seconds: float
    health: HealthCheck | None
    dependencies: Mapping[str, str]
    restart: str
    ports: tuple[tuple[str, int, int], ...]
    profiles: tuple[str, ...]


def services(file: Path, volumes: Path) -> dict[str, Service]:
    """The services by name in dependency order; variables come from the `.env` beside the file.

    A named volume is a folder in `volumes`. Raises `CalledProcessError`.
    """
    options = ("-f", str(file), "--profile", "*", "config", "--format", "json")
    result = subprocess.run(
        [_COMPOSE, *options], env=PATH, capture_output=True, text=True, check=True
    )
    document = json.loads(result.stdout.replace("$$", "$"))  # `config` escapes `$` in its output
    secrets = {name: Path(secret["file"]) for name, secret in document["secrets"].items()}
    by_name = {
        name: _service(name, definition, secrets, volumes)
        for name, definition in document["services"].items()
    }
    return {name: by_name[name] for name in _topological_order(by_name)}


def _service(
    name: str, definition: Mapping[str, Any], secrets: Mapping[str, Path], volumes: Path
) -> Service:
    mounts = [_volume(each, volumes) for each in definition.get("volumes", ())]
    mounts += [_memory(text) for text in definition.get("tmpfs", ())]
    mounts += [
        Mount(each["target"], secrets[each["source"]], read_only=True)
        for each in definition.get("secrets", ())
    ]
    stop_signal = definition.get("stop_signal")
    return Service(
        name,
        definition["image"],
        definition.get("build", {}).get("dockerfile"),
        _as_tuple(definition["entrypoint"]),
        _as_tuple(definition["command"]),
        definition.get("environment", {}),
        definition.get("user"),
        definition.get("init", False),
        tuple(sorted(mounts, key=lambda mount: mount.target)),
        definition.get("read_only", False),
        "no-new-privileges:true" in definition.get("security_opt", ()),
        definition.get("cap_drop") == ["ALL"],
        None if stop_signal is None else signal.Signals[stop_signal],
        _seconds(definition.get("stop_grace_period", "10s")),
        _health_check(definition["healthcheck"]) if "healthcheck" in definition else None,
        {other: each["condition"] for other, each in definition.get("depends_on", {}).items()},
        definition.get("restart", "no"),
        tuple(
            (port["host_ip"], int(port["published"]), port["target"])
            for port in definition.get("ports", ())
        ),
        tuple(definition.get("profiles", ())),
    )


def _as_tuple(values: Sequence[str] | None) -> tuple[str, ...] | None:
    return None if values is None else tuple(values)


def _volume(definition: Mapping[str, Any], volumes: Path) -> Mount:
    source = (
        Path(definition["source"])
        if definition["type"] == "bind"
        else volumes / definition["source"]
    )
    return Mount(definition["target"], source, definition.get("read_only", False))


def _memory(text: str) -> Mount:
    target, _, options = text.partition(":")
    return Mount(target, options=options)


def _health_check(definition: Mapping[str, Any]) -> HealthCheck:
    kind, *command = definition["test"]
    return HealthCheck(
        tuple(command) if kind == "CMD" else ("/bin/sh", "-c", *command),
        _seconds(definition.get("interval", "30s")),
        _seconds(definition.get("timeout", "30s")),
        definition.get("retries", 3),
        _seconds(definition.get("start_period", "0s")),
        _seconds(definition.get("start_interval", "5s")),
    )


def _seconds(text: str) -> float:
    parts = re.findall(r"([\d.]+)(ms|s|m|h)", text)
    assert "".join(map("".join, parts)) == text, text
    return sum(float(number) * _UNITS[unit] for number, unit in parts)


def _topological_order(by_name: Mapping[str, Service]) -> list[str]:
    ordered: list[str] = []
    while remaining := [name for name in by_name if name not in ordered]:
        ordered.append(
            next(name for name in remaining if set(by_name[name].dependencies) <= set(ordered))
        )
    return ordered
