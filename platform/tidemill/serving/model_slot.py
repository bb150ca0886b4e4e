"""What is in service of one model: read by requests without a lock, swapped by one thread."""

from dataclasses import dataclass

from tidemill.core.ledger import Entry
from tidemill.serving.predictor import Predictor


@dataclass(frozen=True)
class ServedModel:
    """A model in service, and the ledger entry that put it there.

    `hash` is the sha256 of the entry's bytes; `since` milliseconds since 1970; `copied` says that
    it came from the local copy and the ledger was not asked.
    """

    predictor: Predictor
    entry: Entry
    hash: str
    since_ms: int
    from_local_copy: bool = False

    @property
    def digest(self) -> str:
        """The model's name, for ever."""
        return self.predictor.model.digest


class ModelSlot:
    """Holds what is in service. A request takes `served` once and keeps to it.

    An old model is freed when the last request that took it has ended.
    """

    __slots__ = ("served",)

    def __init__(self) -> None:
        self.served: ServedModel | None = None

    def swap(self, served: ServedModel) -> ServedModel | None:
        """Put a model into service and give the one before."""
        previous, self.served = self.served, served
        return previous
