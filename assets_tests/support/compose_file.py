"""What a compose file says of its services, read as `docker compose` reads it."""

import re
import shlex
import signal
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from dotenv import dotenv_values

from container_root import Mount

_VARIABLE = re.compile(r"\$(?:\$|\{(\w+)(?:(:?[-?])([^{}]*))?\}|(\w+))")
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
    """One service. What its image says holds where this says None; volumes are in `mounts`.

    `needs` tells in which condition others must be first; `ports` are (address, port of the
    machine, port of the container).
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
    volumes: tuple[str, ...]
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
    """The services by name, in an order in which each comes after those it needs.

    Variables are those of `.env` beside the file. A named volume is a folder in `volumes`.
    """
    env = file.parent / ".env"
    known = {k: v or "" for k, v in dotenv_values(env).items()} if env.exists() else {}
    told = _interpolated(yaml.safe_load(file.read_text()), known)
    found = {
        name: _service(name, one, told, file, volumes) for name, one in told["services"].items()
    }
    return {name: found[name] for name in _in_order(found)}


def _service(
    name: str, told: Mapping[str, Any], whole: Mapping[str, Any], file: Path, volumes: Path
) -> Service:
    beside = file.parent
    mounts = [_volume(text, beside, volumes) for text in told.get("volumes", ())]
    mounts += [_memory(text) for text in told.get("tmpfs", ())]
    for secret in told.get("secrets", ()):
        source = beside / whole["secrets"][secret]["file"]
        mounts.append(Mount(f"/run/secrets/{secret}", source, read_only=True))
    number = told.get("stop_signal")
    return Service(
        name,
        told["image"],
        told.get("build", {}).get("dockerfile"),
        _words(told.get("entrypoint")),
        _words(told.get("command")),
        {**_files(told.get("env_file", ()), beside), **_texts(told.get("environment", {}))},
        told.get("user"),
        told.get("init", False),
        tuple(sorted(mounts, key=lambda mount: mount.target)),
        tuple(m.target for m in mounts if m.source and m.source.parent == volumes),
        told.get("read_only", False),
        "no-new-privileges:true" in told.get("security_opt", ()),
        told.get("cap_drop") == ["ALL"],
        None if number is None else signal.Signals[number],
        _seconds(told.get("stop_grace_period", "10s")),
        _health(told["healthcheck"]) if "healthcheck" in told else None,
        {other: each["condition"] for other, each in told.get("depends_on", {}).items()},
        told.get("restart", "no"),
        tuple(_port(text) for text in told.get("ports", ())),
        tuple(told.get("profiles", ())),
    )


def _interpolated(told: Any, known: Mapping[str, str]) -> Any:
    """All texts with `${NAME}`, `${NAME:-default}` and their like replaced."""

    def value(found: re.Match[str]) -> str:
        name, way, rest = found[1] or found[4], found[2] or "", found[3] or ""
        if name is None:
            return "$"
        given = known.get(name)
        if given or (given is not None and not way.startswith(":")):
            return given
        assert not way.endswith("?"), f"{name}: {rest}"
        return rest

    if isinstance(told, Mapping):
        return {key: _interpolated(each, known) for key, each in told.items()}
    if isinstance(told, list):
        return [_interpolated(each, known) for each in told]
    return _VARIABLE.sub(value, told) if isinstance(told, str) else told


def _words(told: str | Sequence[str] | None) -> tuple[str, ...] | None:
    if told is None:
        return None
    return tuple(shlex.split(told) if isinstance(told, str) else map(str, told))


def _texts(told: Mapping[str, Any]) -> dict[str, str]:
    for name, value in told.items():  # YAML's true would be `true`, and 1.10 another number
        assert isinstance(value, str), f"{name} is not a text: write it in quotes"
    return dict(told)


def _files(told: Iterable[Mapping[str, Any]], beside: Path) -> dict[str, str]:
    found: dict[str, str] = {}
    for each in told:
        file = beside / each["path"]
        assert file.exists() or not each.get("required", True), file
        found |= {k: v or "" for k, v in dotenv_values(file).items()} if file.exists() else {}
    return found


def _volume(text: str, beside: Path, volumes: Path) -> Mount:
    source, target, *more = text.split(":")
    where = beside / source if source.startswith((".", "/")) else volumes / source
    return Mount(target, where, read_only="ro" in more)


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


def _port(text: str) -> tuple[str, int, int]:
    address, outside, inside = text.split(":")
    return address, int(outside), int(inside)


def _in_order(found: Mapping[str, Service]) -> list[str]:
    """The names, each behind those it needs, else as they stand in the file."""
    done: list[str] = []
    while len(done) < len(found):
        done.append(
            next(n for n, s in found.items() if n not in done and set(s.needs) <= set(done))
        )
    return done
