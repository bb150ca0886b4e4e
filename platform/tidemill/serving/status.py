"""The server's status: per model what is in service, how old and how stale it is."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tidemill.core.errors import TidemillError
from tidemill.core.spec import ModelSpec
from tidemill.core.windows import from_ms
from tidemill.ports import Clock
from tidemill.serving.model_state import LedgerConnection, ModelState, ServedModel


@dataclass
class Status:
    """The state of a server. If `draining`, it is shutting down and reports not ready."""

    models: Mapping[str, ModelState]
    connection: LedgerConnection
    specs: Mapping[str, ModelSpec]
    clock: Clock
    draining: bool = False

    @property
    def ready(self) -> bool:
        """Whether every configured model is served and the server is not shutting down."""
        return not self.draining and all(state.served is not None for state in self.models.values())

    def data_end_ms(self, model: str, served: ServedModel) -> int | None:
        """The end of the newest window that a served model learned from, in ms since 1970.

        For an initial model, the start of the first window. None if defs.yaml no longer has the
        window.
        """
        calendar, window = self.specs[model].calendar, served.predictor.model.window
        try:
            return calendar.window(window).end if window else calendar.first.start
        except TidemillError:
            return None

    def age_seconds(self, model: str) -> float | None:
        """Seconds since that end."""
        served = self.models[model].served
        end_ms = None if served is None else self.data_end_ms(model, served)
        return None if end_ms is None else (self.clock() - end_ms) / 1000

    def seconds_since_contact(self) -> float:
        """Seconds since the ledger was last reached, or since the start."""
        connection = self.connection
        return (self.clock() - (connection.last_contact_ms or connection.started_at_ms)) / 1000

    def describe(self) -> dict[str, Any]:
        """The whole status, as `/models` returns it."""
        connection = self.connection
        return {
            "ready": self.ready,
            "draining": self.draining,
            "ledger": {
                "connected": connection.error is None and connection.last_contact_ms is not None,
                "caught_up": connection.caught_up and connection.lag == 0,
                "lag": connection.lag,
                "seconds_since_contact": self.seconds_since_contact(),
                "error": connection.error,
            },
            "models": {name: self.describe_model(name) for name in self.models},
        }

    def describe_model(self, name: str) -> dict[str, Any]:
        """One model, as `/models` returns it."""
        state = self.models[name]
        served, failure = state.served, state.failure
        description: dict[str, Any] = {"in_service": served is not None, "last_failure": failure}
        description["ledger_version"] = len(state.chain.entries) - 1 if state.chain.head else None
        if served is None:
            return description
        entry, end_ms = served.entry, self.data_end_ms(name, served)
        return description | {
            "digest": served.digest,
            "version": entry.seq,
            "kind": entry.kind,
            "as_of": entry.as_of,
            "actor": entry.actor,
            "reason": entry.reason,
            "learned_window": served.predictor.model.window,
            "learned_until": from_ms(end_ms).isoformat() if end_ms is not None else None,
            "age_seconds": self.age_seconds(name),
            "since": from_ms(served.since_ms).isoformat(),
            "from_local_copy": served.from_local_copy,
            "stale": self._stale_reason(name, served),
        }

    def _stale_reason(self, name: str, served: ServedModel) -> str | None:
        """Why a different model may be due; None if the one in service is up to date."""
        connection, state = self.connection, self.models[name]
        head = state.chain.head
        if connection.error is not None or connection.last_contact_ms is None:
            return f"the ledger was not reached for {self.seconds_since_contact():.0f} s"
        if state.newest_served is not None and len(state.chain.entries) <= state.newest_served[0]:
            return f"the ledger has not reached entry {state.newest_served[0]} again"
        if head is not None and head.hash != served.hash:
            return f"entry {head.entry.seq} could not be taken into service"
        return state.unreadable
