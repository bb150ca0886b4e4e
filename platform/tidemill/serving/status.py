"""What the server says of itself: per model what is in service, how old and how stale it is."""

from dataclasses import dataclass
from typing import Any

from tidemill.core.errors import TidemillError
from tidemill.core.spec import ModelSpec
from tidemill.core.windows import from_ms
from tidemill.ports import Clock
from tidemill.serving.following import Follower
from tidemill.serving.slot import Served


@dataclass
class Status:
    """The state of a server. `draining`: it ends, and takes no new work from a balancer."""

    follower: Follower
    specs: dict[str, ModelSpec]
    now: Clock
    draining: bool = False

    @property
    def ready(self) -> bool:
        """Whether every configured model is served, and the server does not end."""
        return not self.draining and all(
            followed.slot.served is not None for followed in self.follower.models.values()
        )

    def data_end(self, model: str, served: Served) -> int | None:
        """The end, in ms, of the newest window that a served model learned from: at least all data
        before the first window. None for a window that defs.yaml no longer has."""
        calendar, window = self.specs[model].calendar, served.predictor.model.window
        try:
            return calendar.window(window).end if window else calendar.first.start
        except TidemillError:
            return None

    def age(self, model: str) -> float | None:
        """Seconds since that end."""
        served = self.follower.models[model].slot.served
        end = None if served is None else self.data_end(model, served)
        return None if end is None else (self.now() - end) / 1000

    def silence(self) -> float:
        """Seconds since the ledger was last reached, or since the start."""
        contact = self.follower.contact
        return (self.now() - (contact.last or contact.begun)) / 1000

    def describe(self) -> dict[str, Any]:
        """All of it, as `/models` tells it."""
        contact = self.follower.contact
        return {
            "ready": self.ready,
            "draining": self.draining,
            "ledger": {
                "reached": contact.problem is None and contact.last is not None,
                "caught_up": contact.caught_up and contact.behind == 0,
                "behind": contact.behind,
                "silent_seconds": self.silence(),
                "problem": contact.problem,
            },
            "models": {name: self.model(name) for name in self.follower.models},
        }

    def model(self, name: str) -> dict[str, Any]:
        """One model, as `/models` tells it."""
        followed = self.follower.models[name]
        served, failure = followed.slot.served, followed.failure
        told: dict[str, Any] = {"in_service": served is not None, "last_failure": failure}
        told["ledger_version"] = len(followed.chain.entries) - 1 if followed.chain.head else None
        if served is None:
            return told
        entry, end = served.entry, self.data_end(name, served)
        return told | {
            "digest": served.digest,
            "version": entry.seq,
            "kind": entry.kind,
            "as_of": entry.as_of,
            "by": entry.actor,
            "why": entry.reason,
            "learned_window": served.predictor.model.window,
            "learned_until": from_ms(end).isoformat() if end is not None else None,
            "age_seconds": self.age(name),
            "since": from_ms(served.since).isoformat(),
            "from_local_copy": served.copied,
            "stale": self._stale(name, served),
        }

    def _stale(self, name: str, served: Served) -> str | None:
        """Why another model may be due than the one in service; None where none is."""
        contact, followed = self.follower.contact, self.follower.models[name]
        head = followed.chain.head
        if contact.problem is not None or contact.last is None:
            return f"the ledger was not reached for {self.silence():.0f} s"
        if followed.known is not None and len(followed.chain.entries) <= followed.known[0]:
            return f"the ledger has not reached entry {followed.known[0]} again"
        if head is not None and head.hash != served.hash:
            return f"entry {head.entry.seq} could not be taken into service"
        return None
