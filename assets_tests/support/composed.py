"""A compose file's services in containers of this machine: begun in its order, kept as it says."""

import subprocess
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import psutil

from compose_file import Service
from containers import Container, Engine
from images import Image, volume, wanted

_SECONDS = 400.0
_LONG = 10.0
"""Seconds for which one must have run that is not taken for one that ends at once."""


@dataclass
class _State:
    """A container under way, or ended; of its health, as an engine keeps account of it.

    `due` is when its health is to be checked, `again` when it may come back, after so many `ends`.
    """

    container: Container
    begun: float
    due: float
    failures: int = 0
    healthy: bool = False
    ends: int = 0
    again: float | None = None


class Composed:
    """Services as `docker compose` runs them, over the named volumes in `volumes`."""

    def __init__(
        self,
        engine: Engine,
        services: Mapping[str, Service],
        images: Mapping[str, Image],
        volumes: Path,
    ) -> None:
        self.engine, self.services, self._images = engine, services, images
        self._volumes = volumes
        self._states: dict[str, _State] = {}

    def up(self, names: Iterable[str]) -> None:
        """Begin these, each when those it needs are as it needs them; wait until all are well."""
        names = list(names)
        for name in names:  # as `up` begins again what has ended
            if name in self._states and not self._states[name].container.runs:
                del self._states[name]
        until = time.monotonic() + _SECONDS
        while not all(self._well(name) for name in names):
            assert time.monotonic() < until, self.told()
            for name in names:
                if name not in self._states and self._may_begin(name):
                    self.start(name)
            self.look()
            time.sleep(0.1)

    def start(self, name: str) -> None:
        """Begin a service at once."""
        service = self.services[name]
        image = self._images[service.image]
        for mount in service.mounts:
            if mount.source and mount.source.parent == self._volumes:
                volume(mount.source, image, mount.target)
        container = self.engine.run(wanted(service, image))
        health, now = service.health, time.monotonic()
        self._states[name] = _State(container, now, now + (health.start_interval if health else 0))

    def stop(self, names: Sequence[str], killed: Collection[str] = ()) -> None:
        """End services, all at once, some by SIGKILL; each stays so until it is asked for again."""
        ended = [(name, self._states.pop(name).container) for name in names]
        with ThreadPoolExecutor(len(ended)) as pool:
            for each in [
                pool.submit(one.kill if name in killed else one.stop) for name, one in ended
            ]:
                each.result()

    def run(self, name: str, *command: str, seconds: float = 300) -> str:
        """The output of one more container of a service, as `docker compose run --rm`."""
        service = self.services[name]
        one = wanted(service, self._images[service.image], command)
        container = self.engine.run(one.named(f"{name}-run"))
        before = container.log.stat().st_size if container.log.exists() else 0
        code = container.wait(seconds)
        assert code == 0, (name, command, container.said())
        return container.log.read_text(errors="replace")[before:]

    def container(self, name: str) -> Container:
        return self._states[name].container

    def look(self) -> None:
        """Do what an engine does all the time: check who is well, begin again who has ended."""
        for name, state in list(self._states.items()):
            service = self.services[name]
            if not state.container.runs:
                self._come_back(service, state)
            elif service.health and time.monotonic() >= state.due:
                self._check(service, state)

    def _check(self, service: Service, state: _State) -> None:
        health = service.health
        assert health is not None
        try:
            code = state.container.exec(*health.words, seconds=health.timeout).returncode
        except subprocess.TimeoutExpired:
            code = -1
        starting = not state.healthy and time.monotonic() < state.begun + health.start_period
        state.due = time.monotonic() + (health.start_interval if starting else health.interval)
        state.healthy = code == 0 or (state.healthy and state.failures + 1 < health.retries)
        state.failures = 0 if code == 0 or starting else state.failures + 1

    def _come_back(self, service: Service, state: _State) -> None:
        """Begin it again, if its policy is so, after a pause that doubles while it ends at once."""
        failed, now = state.container.wait(1) != 0, time.monotonic()
        if service.restart == "no" or (service.restart == "on-failure" and not failed):
            return
        if state.again is None:
            state.ends = 1 if now > state.begun + _LONG else state.ends + 1
            state.again = now + 0.1 * 2**state.ends
        elif now >= state.again:
            self.start(service.name)
            self._states[service.name].ends = state.ends

    def _well(self, name: str) -> bool:
        state = self._states.get(name)
        if state is None:
            return False
        if self.services[name].health is not None:
            return state.healthy
        return state.container.runs or state.container.wait(1) == 0

    def _may_begin(self, name: str) -> bool:
        return all(self._is(other, how) for other, how in self.services[name].needs.items())

    def _is(self, name: str, condition: str) -> bool:
        state = self._states.get(name)
        if state is None:
            return False
        if condition == "service_completed_successfully":
            assert state.container.runs or state.container.wait(1) == 0, state.container.said()
            return not state.container.runs
        return state.healthy or condition == "service_started"

    def processes(self) -> dict[str, list[psutil.Process]]:
        """All processes, by service."""
        return {name: state.container.processes() for name, state in self._states.items()}

    def told(self) -> str:
        """What each service that is not well has said lately."""
        ill = [name for name in self._states if not self._well(name)]
        return "\n".join(f"--- {name}\n{self._states[name].container.said()}" for name in ill)
