"""Runs a compose file's services in namespace containers: start order, health and restarts."""

import subprocess
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import psutil

from compose_file import Service
from containers import Container, Engine
from images import Image, container_spec, create_volume

_STARTUP_TIMEOUT_SECONDS = 400.0
_MIN_UPTIME_SECONDS = 10.0
"""Seconds after which an exit does not count as a repeated one for the restart delay."""


@dataclass
class _State:
    """A running or exited container and its health, as an engine tracks them.

    Times are those of `time.monotonic`. `exit_count` is the number of exits in a row.
    """

    container: Container
    started_at: float
    check_due_at: float
    failures: int = 0
    healthy: bool = False
    exit_count: int = 0
    restart_at: float | None = None


class ComposeRunner:
    """Services as `docker compose` runs them, with their named volumes in `volumes`."""

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
        """Start services as their dependencies' conditions are met; wait until all are ready."""
        names = list(names)
        for name in names:  # `up` restarts what has exited
            if name in self._states and not self._states[name].container.is_running:
                del self._states[name]
        deadline = time.monotonic() + _STARTUP_TIMEOUT_SECONDS
        while not all(self._is_ready(name) for name in names):
            assert time.monotonic() < deadline, self.unhealthy_logs()
            for name in names:
                if name not in self._states and self._can_start(name):
                    self.start(name)
            self.reconcile()
            time.sleep(0.1)

    def start(self, name: str) -> None:
        """Start a service immediately."""
        service = self.services[name]
        image = self._images[service.image]
        for mount in service.mounts:
            if mount.source and mount.source.parent == self._volumes:
                create_volume(mount.source, image, mount.target)
        container = self.engine.run(container_spec(service, image))
        health, now = service.health, time.monotonic()
        self._states[name] = _State(container, now, now + (health.start_interval if health else 0))

    def stop(self, names: Sequence[str], kill: Collection[str] = ()) -> None:
        """Stop services concurrently, those in `kill` by SIGKILL; they are not restarted."""
        stopping = [(name, self._states.pop(name).container) for name in names]
        with ThreadPoolExecutor(len(stopping)) as pool:
            for future in [
                pool.submit(container.kill if name in kill else container.stop)
                for name, container in stopping
            ]:
                future.result()

    def run(self, name: str, *command: str, timeout: float = 300) -> str:
        """The output of a one-off container of a service, as `docker compose run --rm`."""
        service = self.services[name]
        spec = container_spec(service, self._images[service.image], command)
        container = self.engine.run(spec.with_name(f"{name}-run"))
        before = container.log.stat().st_size if container.log.exists() else 0
        code = container.wait(timeout)
        assert code == 0, (name, command, container.log_tail())
        return container.log.read_text(errors="replace")[before:]

    def container(self, name: str) -> Container:
        return self._states[name].container

    def reconcile(self) -> None:
        """Do what an engine does continuously: check health and restart exited containers."""
        for name, state in list(self._states.items()):
            service = self.services[name]
            if not state.container.is_running:
                self._restart_if_due(service, state)
            elif service.health and time.monotonic() >= state.check_due_at:
                self._check_health(service, state)

    def _check_health(self, service: Service, state: _State) -> None:
        health = service.health
        assert health is not None
        try:
            exit_code = state.container.exec(*health.command, timeout=health.timeout).returncode
        except subprocess.TimeoutExpired:
            exit_code = -1
        starting = not state.healthy and time.monotonic() < state.started_at + health.start_period
        state.check_due_at = time.monotonic() + (
            health.start_interval if starting else health.interval
        )
        state.healthy = exit_code == 0 or (state.healthy and state.failures + 1 < health.retries)
        state.failures = 0 if exit_code == 0 or starting else state.failures + 1

    def _restart_if_due(self, service: Service, state: _State) -> None:
        """Restart it if its policy says so, after a delay that doubles while it exits early."""
        failed, now = state.container.wait(1) != 0, time.monotonic()
        if service.restart == "no" or (service.restart == "on-failure" and not failed):
            return
        if state.restart_at is None:
            state.exit_count = (
                1 if now > state.started_at + _MIN_UPTIME_SECONDS else state.exit_count + 1
            )
            state.restart_at = now + 0.1 * 2**state.exit_count
        elif now >= state.restart_at:
            self.start(service.name)
            self._states[service.name].exit_count = state.exit_count

    def _is_ready(self, name: str) -> bool:
        state = self._states.get(name)
        if state is None:
            return False
        if self.services[name].health is not None:
            return state.healthy
        return state.container.is_running or state.container.wait(1) == 0

    def _can_start(self, name: str) -> bool:
        return all(
            self._meets_condition(other, condition)
            for other, condition in self.services[name].dependencies.items()
        )

    def _meets_condition(self, name: str, condition: str) -> bool:
        state = self._states.get(name)
        if state is None:
            return False
        if condition == "service_completed_successfully":
            assert state.container.is_running or state.container.wait(1) == 0, (
                state.container.log_tail()
            )
            return not state.container.is_running
        return state.healthy or condition == "service_started"

    def processes(self) -> dict[str, list[psutil.Process]]:
        """All processes by service."""
        return {name: state.container.processes() for name, state in self._states.items()}

    def unhealthy_logs(self) -> str:
        """The last log lines of each service that is not ready."""
        unhealthy = [name for name in self._states if not self._is_ready(name)]
        return "\n".join(
            f"--- {name}\n{self._states[name].container.log_tail()}" for name in unhealthy
        )
