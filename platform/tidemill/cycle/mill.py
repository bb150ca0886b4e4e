"""One model and everything its four steps work with."""

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import polars as pl

from tidemill.core.bundle import Model, feature_function_reference
from tidemill.core.errors import FeatureSkew, SpecInvalid
from tidemill.core.features import FeatureFunction
from tidemill.core.ledger import Chain, build_chain
from tidemill.core.log import LedgerRecord
from tidemill.core.spec import ModelSpec
from tidemill.cycle.archive import Archive
from tidemill.ports import Clock, EventLog, LedgerTopic, Prover

_LOADED = 6  # champion, baseline, challenger, initial, candidate, holdout fit


@dataclass(frozen=True)
class Mill:
    """The ports of one model, and its spec.

    `features` is the spec's feature function, and `functions` loads one by its reference: a bundle
    is answered through its own. `history` gives the bytes and the name of the file of historical
    data, None where the model begins with the topic's own history. `by` is who is at work, for the
    ledger.
    """

    model: str
    spec: ModelSpec
    log: EventLog
    archive: Archive
    ledger: LedgerTopic
    prover: Prover
    now: Clock
    features: FeatureFunction | None = None
    functions: Callable[[str], FeatureFunction] | None = None
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
        """The model of this digest with its own feature function, from the store or as last loaded.

        Raises what `Archive.bundle` and `Model.load` raise.
        """
        model = self._models.pop(digest, None)
        if model is None:
            bundle = self.archive.bundle(digest)
            reference = feature_function_reference(bundle)
            model = Model.load(bundle, digest, self._function(reference) if reference else None)
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
        known = build_chain(self.model, records[len(seen) :], known)
        self._seen[:] = [(records, known)]
        return known

    def learning(self) -> dict[str, Any]:
        """The learning spec without the initial model's digest."""
        return self.spec.learning_spec(self.features.source_digest if self.features else None)

    def under(self, learning: Mapping[str, Any]) -> "Mill":
        """The mill of another learning spec, itself where it is its own, with nothing loaded.

        A feature function is loaded when it is first asked; `FeatureSkew` is raised then, where it
        is another one than it was.
        """
        if {**learning, **self.learning()} == learning:
            return self
        reference, source = learning["features"], learning["features_source"]

        def asked(frame: pl.DataFrame) -> Any:
            found = self._function(reference)
            if found is None or found.source_digest != source:
                raise FeatureSkew(
                    f"The feature function {reference} is no longer the one of source "
                    f"{source[:12]} that model {self.model} once learned through.",
                    "Bring back the module as it was then.",
                )
            return found.function(frame)

        function = FeatureFunction(reference, source, asked) if reference else None
        return replace(self, spec=self.spec.with_learning_spec(learning), features=function)

    def _function(self, reference: str) -> FeatureFunction | None:
        """The feature function that this reference names now; None where there is none."""
        if self.features is not None and self.features.reference == reference:
            return self.features
        try:
            return self.functions(reference) if self.functions else None
        except SpecInvalid:  # its module is gone
            return None

    def over(self, archive: Archive) -> "Mill":
        """The same mill over another archive, with nothing loaded."""
        return replace(self, archive=archive)
