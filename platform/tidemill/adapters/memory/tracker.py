"""A tracker in memory."""

from collections.abc import Callable
from dataclasses import dataclass, field

from tidemill.core.errors import TrackerUnavailable
from tidemill.core.run_record import RegistryVersion, WindowRun


@dataclass
class MemoryTracker:
    """The port `Tracker`. While `unavailable` is set, every call fails."""

    unavailable: bool = False
    runs: dict[tuple[str, str], WindowRun] = field(default_factory=dict)
    parents: dict[tuple[str, str], str | None] = field(default_factory=dict)
    registry: dict[str, list[RegistryVersion]] = field(default_factory=dict)
    aliases: dict[str, str] = field(default_factory=dict)

    def recorded_digest(self, model: str, window: str) -> str | None:
        self._check_available()
        run = self.runs.get((model, window))
        return run.digest if run else None

    def start_parent_run(self, model: str, start: Callable[[str], str]) -> str | None:
        self._check_available()
        return None

    def start_run(self, model: str, window: str, parent_run_id: str | None) -> str:
        self._check_available()
        self.parents.setdefault((model, window), parent_run_id)
        return f"{model}-{window}"

    def record(self, run_id: str, run: WindowRun) -> None:
        self._check_available()
        self.runs[run.model, run.window] = run

    def run_url(self, run_id: str) -> str:
        return f"memory:{run_id}"

    def versions(self, model: str) -> list[str]:
        self._check_available()
        return [version.digest for version in self.registry.get(model, [])]

    def register(self, model: str, version: RegistryVersion) -> None:
        if version.digest not in self.versions(model):
            self.registry.setdefault(model, []).append(version)

    def champion(self, model: str) -> str | None:
        self._check_available()
        return self.aliases.get(model)

    def set_champion(self, model: str, digest: str) -> None:
        assert digest in self.versions(model)
        self.aliases[model] = digest

    def end_run(self, run_id: str, succeeded: bool) -> None:
        self._check_available()

    def _check_available(self) -> None:
        if self.unavailable:
            raise TrackerUnavailable("The tracker is unavailable.", "Wait for it.")
