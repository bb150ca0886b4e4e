"""What a compose file says of its services, as Docker Compose itself reads it."""

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
class Health:
    """A health check: its words in the container, and when they are said. Times in seconds."""

    words: tuple[str, ...]
    interval: float
    timeout: float
    retries: int
    start_period: float
    start_interval: float


@dataclass(frozen=True)
class Service:
    """One service. What its image says holds where this says None.

    `build` is its Dockerfile, `needs` the condition in which others must be first, `ports` are
    (address, port of the machine, port of the container).
    """

    name: str
    image: str
    build: str | None
    entrypoint: tuple[str, ...] | None
    command: tuple[str, ...] | None
    environment: Mapping[str, str]
    user: str | None
    init: bool
    mounts: tuple[Mount, ...]
    read_only: bool
    no_new_privileges: bool
    no_capabilities: bool
    stop_signal: signal.Signals | None
    grace: float
    health: Health | None
    needs: Mapping[str, str]
    restart: str
    ports: tuple[tuple[str, int, int], ...]
    profiles: tuple[str, ...]


def services(file: Path, volumes: Path) -> dict[str, Service]:
    """The services by name, each after those it needs; variables are those of `.env` beside.

    A named volume is a folder in `volumes`. Raises `CalledProcessError`.
    """
    asked = ("-f", str(file), "--profile", "*", "config", "--format", "json")
    done = subprocess.run([_COMPOSE, *asked], env=PATH, capture_output=True, text=True, check=True)
    told = json.loads(done.stdout.replace("$$", "$"))  # it writes what it would read again
    secrets = {name: Path(each["file"]) for name, each in told["secrets"].items()}
    found = {name: _service(name, one, secrets, volumes) for name, one in told["services"].items()}
    return {name: found[name] for name in _in_order(found)}


def _service(
    name: str, told: Mapping[str, Any], secrets: Mapping[str, Path], volumes: Path
) -> Service:
    mounts = [_volume(each, volumes) for each in told.get("volumes", ())]
    mounts += [_memory(text) for text in told.get("tmpfs", ())]
    mounts += [
        Mount(each["target"], secrets[each["source"]], read_only=True)
        for each in told.get("secrets", ())
    ]
    number = told.get("stop_signal")
    return Service(
        name,
        told["image"],
        told.get("build", {}).get("dockerfile"),
        _words(told["entrypoint"]),
        _words(told["command"]),
        told.get("environment", {}),
        told.get("user"),
        told.get("init", False),
        tuple(sorted(mounts, key=lambda mount: mount.target)),
        told.get("read_only", False),
        "no-new-privileges:true" in told.get("security_opt", ()),
        told.get("cap_drop") == ["ALL"],
        None if number is None else signal.Signals[number],
        _seconds(told.get("stop_grace_period", "10s")),
        _health(told["healthcheck"]) if "healthcheck" in told else None,
        {other: each["condition"] for other, each in told.get("depends_on", {}).items()},
        told.get("restart", "no"),
        tuple(
            (port["host_ip"], int(port["published"]), port["target"])
            for port in told.get("ports", ())
        ),
        tuple(told.get("profiles", ())),
    )


def _words(told: Sequence[str] | None) -> tuple[str, ...] | None:
    return None if told is None else tuple(told)


def _volume(told: Mapping[str, Any], volumes: Path) -> Mount:
    source = Path(told["source"]) if told["type"] == "bind" else volumes / told["source"]
    return Mount(told["target"], source, told.get("read_only", False))


def _memory(text: str) -> Mount:
    target, _, options = text.partition(":")
    return Mount(target, options=options)


def _health(told: Mapping[str, Any]) -> Health:
    kind, *words = told["test"]
    return Health(
        tuple(words) if kind == "CMD" else ("/bin/sh", "-c", *words),
        _seconds(told.get("interval", "30s")),
        _seconds(told.get("timeout", "30s")),
        told.get("retries", 3),
        _seconds(told.get("start_period", "0s")),
        _seconds(told.get("start_interval", "5s")),
    )


def _seconds(text: str) -> float:
    parts = re.findall(r"([\d.]+)(ms|s|m|h)", text)
    assert "".join(map("".join, parts)) == text, text
    return sum(float(number) * _UNITS[unit] for number, unit in parts)


def _in_order(found: Mapping[str, Service]) -> list[str]:
    done: list[str] = []
    while left := [name for name in found if name not in done]:
        done.append(next(name for name in left if set(found[name].needs) <= set(done)))
    return done
