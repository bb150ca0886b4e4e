"""One model and everything its four steps work with."""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from tidemill.core.bundle import Model
from tidemill.core.features import FeatureFunction
from tidemill.core.ledger import Chain, chain
from tidemill.core.log import LedgerRecord
from tidemill.core.spec import ModelSpec
from tidemill.cycle.archive import Archive
from tidemill.ports import Clock, EventLog, LedgerTopic, Prover

_LOADED = 6  # champion, baseline, challenger, initial, candidate, holdout fit


@dataclass(frozen=True)
class Mill:
    """The ports of one model, and its spec.

    `history` gives the bytes and the name of the file of historical data, None where the model
    begins with the topic's own history. `by` is who is at work, for the ledger.
    """

    model: str
    spec: ModelSpec
    log: EventLog
    archive: Archive
    ledger: LedgerTopic
    prover: Prover
    now: Clock
    features: FeatureFunction | None = None
    history: Callable[[], tuple[str, bytes]] | None = None
    num_threads: int = 1
    by: str = "tidemill"
    # Never taken over by `replace`: another model, or archive, has others.
    _models: "OrderedDict[str, Model]" = field(
        default_factory=OrderedDict, init=False, repr=False, compare=False
    )
    _seen: list[tuple[list[LedgerRecord], Chain]] = field(
        default_factory=list, init=False, repr=False, compare=False
    )

    def load(self, digest: str) -> Model:
        """The model of this digest, from the store or as last loaded."""
        model = self._models.pop(digest, None) or Model.load(
            self.archive.bundle(digest), digest, self.features
        )
        self._models[digest] = model
        while len(self._models) > _LOADED:
            self._models.popitem(last=False)
        return model

    def chain(self) -> Chain:
        """This model's part of the ledger, as it stands now; what was seen is not decoded again."""
        records = self.ledger.read()
        seen, known = self._seen[-1] if self._seen else ([], Chain(self.model))
        if records[: len(seen)] != seen:
            seen, known = [], Chain(self.model)
        known = chain(self.model, records[len(seen) :], known)
        self._seen[:] = [(records, known)]
        return known

    def learning(self) -> dict[str, Any]:
        """The learning spec without the initial model's digest."""
        return self.spec.learning(self.features.source if self.features else None)

    def over(self, archive: Archive) -> "Mill":
        """The same mill over another archive, with nothing loaded."""
        return replace(self, archive=archive)
