"""What a server knows of its models and of the ledger; one thread writes it, others read."""

from dataclasses import dataclass, field

from tidemill.core.ledger import Chain
from tidemill.serving.schemas import Contract
from tidemill.serving.slot import Slot

FIRST_RETRY = 1_000
"""Milliseconds after which a bundle that failed is tried again; then twice as many."""


@dataclass(frozen=True)
class Failure:
    """Why the newest deployment is not in service."""

    error: str
    what: str
    remedy: str
    digest: str | None
    version: int | None
    at: int


@dataclass
class Followed:
    """One model: what is served, the ledger as far as it was read, and the last failure.

    `known` are `seq` and hash of the newest entry that this server has served, now or before a
    restart: it never goes back behind it.
    """

    contract: Contract
    slot: Slot = field(default_factory=Slot)
    chain: Chain = field(default_factory=lambda: Chain(""))
    known: tuple[int, str] | None = None
    failure: Failure | None = None
    tried: tuple[str, int] | None = None
    """The head that failed, and when to try it again, in ms."""
    retry: int = FIRST_RETRY

    def waits(self, head: str, now: int) -> bool:
        """Whether this head has failed, and is not to be tried again yet."""
        return self.tried is not None and self.tried[0] == head and now < self.tried[1]

    def recovered(self) -> None:
        """Forget the last failure: the head is in service."""
        self.failure, self.tried, self.retry = None, None, FIRST_RETRY


@dataclass
class Contact:
    """How the server stands with the ledger; times are ms since 1970."""

    begun: int
    last: int | None = None
    behind: int = 0
    caught_up: bool = False
    problem: str | None = None
