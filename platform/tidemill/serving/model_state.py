"""A server's state of its models and of the ledger; one thread writes it, others read it."""

from dataclasses import dataclass, field

from tidemill.core.ledger import Chain, Entry
from tidemill.serving.predictor import Predictor
from tidemill.serving.schemas import RequestSchema

FIRST_RETRY_DELAY_MS = 1_000
"""Milliseconds until a failed bundle is retried; the delay doubles after each failure."""


@dataclass(frozen=True)
class ServedModel:
    """A model in service, and the ledger entry that put it there.

    `hash` is the sha256 of the entry's bytes; `since_ms` is in milliseconds since 1970.
    `from_local_copy` means that the ledger has not confirmed the entry.
    """

    predictor: Predictor
    entry: Entry
    hash: str
    since_ms: int
    from_local_copy: bool = False

    @property
    def digest(self) -> str:
        """The model's permanent name."""
        return self.predictor.model.digest


@dataclass(frozen=True)
class LoadFailure:
    """Why the newest deployment is not in service."""

    error: str
    message: str
    remedy: str
    digest: str | None
    version: int | None
    failed_at_ms: int


@dataclass
class ModelState:
    """One model: what is served, the ledger as far as it was read, and the last failure.

    A request reads `served` once, without a lock, and uses that model to the end. `newest_served`
    holds `seq` and hash of the newest entry that this server has served, now or before a restart.
    The server never goes back behind it.
    """

    schema: RequestSchema
    served: ServedModel | None = None
    chain: Chain = field(init=False)
    unreadable: str | None = None
    """Why the ledger after the chain cannot be read; None if it can."""
    newest_served: tuple[int, str] | None = None
    failure: LoadFailure | None = None
    backoff: tuple[str, int] | None = None
    """The hash of the head that failed, and when to retry it, in ms since 1970."""
    retry_delay_ms: int = FIRST_RETRY_DELAY_MS

    def __post_init__(self) -> None:
        self.chain = Chain(self.schema.model)

    def swap(self, served: ServedModel) -> None:
        """Put a model into service. The last request that uses the old one frees it."""
        self.served = served

    def in_backoff(self, head: str, now_ms: int) -> bool:
        """Whether this head has failed and must not be retried yet."""
        return self.backoff is not None and self.backoff[0] == head and now_ms < self.backoff[1]

    def clear_failure(self) -> None:
        """Forget the last failure, because the head is in service."""
        self.failure, self.backoff, self.retry_delay_ms = None, None, FIRST_RETRY_DELAY_MS


@dataclass
class LedgerConnection:
    """The connection to the ledger; times are in ms since 1970."""

    started_at_ms: int
    last_contact_ms: int | None = None
    lag: int = 0
    caught_up: bool = False
    error: str | None = None
