"""The served version of a model: read by requests without a lock, swapped by one thread."""

from dataclasses import dataclass

from tidemill.core.ledger import Entry
from tidemill.serving.predictor import Predictor


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


class ModelSlot:
    """Holds the model in service. A request reads `served` once and uses that model to the end.

    An old model is freed when the last request that uses it has ended.
    """

    __slots__ = ("served",)

    def __init__(self) -> None:
        self.served: ServedModel | None = None

    def swap(self, served: ServedModel) -> ServedModel | None:
        """Put a model into service; the previous one."""
        previous, self.served = self.served, served
        return previous
