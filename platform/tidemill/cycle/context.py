"""The context of one model: its spec and the ports that its steps use."""

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import polars as pl

from tidemill.core.bundle import Model, feature_function_reference
from tidemill.core.decoding import Decoder
from tidemill.core.errors import FeatureSkew, SpecInvalid
from tidemill.core.event_log import LedgerRecord
from tidemill.core.features import FeatureFunction
from tidemill.core.ledger import Chain, build_chain
from tidemill.core.parquet import from_parquet
from tidemill.core.records import Manifest
from tidemill.core.spec import ModelSpec
from tidemill.cycle.repository import ModelRepository
from tidemill.cycle.window_records import WindowRecords
from tidemill.ports import BundleValidator, Clock, EventLog, LedgerTopic

_MAX_LOADED_MODELS = 6  # champion, baseline, challenger, initial, candidate, holdout fit


@dataclass(frozen=True)
class ModelContext:
    """The spec of one model, and its ports.

    `feature_function` is the spec's; `load_function` loads one by its reference, because every
    bundle uses its own. `historical_data` returns the name and the bytes of the file of historical
    data; None if the model starts from the topic's history. `actor` is recorded in ledger entries.
    """

    spec: ModelSpec
    event_log: EventLog
    repository: ModelRepository
    ledger: LedgerTopic
    validator: BundleValidator
    clock: Clock
    feature_function: FeatureFunction | None = None
    load_function: Callable[[str], FeatureFunction] | None = None
    historical_data: Callable[[], tuple[str, bytes]] | None = None
    num_threads: int = 1
    actor: str = "tidemill"
    # `init=False`: `replace` must not copy them, because another spec or store loads other models.
    _loaded_models: "OrderedDict[str, Model]" = field(
        default_factory=OrderedDict, init=False, repr=False, compare=False
    )
    _chain_cache: list[tuple[list[LedgerRecord], Chain]] = field(
        default_factory=list, init=False, repr=False, compare=False
    )

    @property
    def model(self) -> str:
        """The name of the model."""
        return self.spec.name

    @property
    def records(self) -> WindowRecords:
        """The records of the model by window."""
        return WindowRecords(self.repository, self.spec.calendar)

    def load_rows(self, manifest: Manifest) -> pl.DataFrame:
        """The rows of a batch, in the order of partition and offset.

        Raises `DigestMismatch` if their file is missing or damaged.
        """
        if manifest.rows_file is None:
            return Decoder(self.spec).empty()
        return from_parquet(self.repository.file(manifest.rows_file))

    def load(self, digest: str) -> Model:
        """The model of this digest with its own feature function, from the store or the cache.

        Raises what `ModelRepository.bundle` and `Model.load` raise.
        """
        model = self._loaded_models.pop(digest, None)
        if model is None:
            bundle = self.repository.bundle(digest)
            reference = feature_function_reference(bundle)
            model = Model.load(
                bundle, digest, self._resolve_function(reference) if reference else None
            )
        self._loaded_models[digest] = model
        while len(self._loaded_models) > _MAX_LOADED_MODELS:
            self._loaded_models.popitem(last=False)
        return model

    def chain(self) -> Chain:
        """This model's part of the ledger as it is now; records are decoded only once."""
        records = self.ledger.read()
        cached_records, model_chain = (
            self._chain_cache[-1] if self._chain_cache else ([], Chain(self.model))
        )
        if records[: len(cached_records)] != cached_records:
            cached_records = []
            model_chain = Chain(self.model)
        model_chain = build_chain(self.model, records[len(cached_records) :], model_chain)
        self._chain_cache[:] = [(records, model_chain)]
        return model_chain

    def learning_spec(self) -> dict[str, Any]:
        """The learning spec without the initial model's digest."""
        return self.spec.learning_spec(
            self.feature_function.source_digest if self.feature_function else None
        )

    def with_learning_spec(self, learning_spec: Mapping[str, Any]) -> "ModelContext":
        """The context with this learning spec and nothing loaded; itself if the spec is its own.

        The feature function is loaded when it is first called, which raises `FeatureSkew` if its
        source is not the one in the learning spec.
        """
        if {**learning_spec, **self.learning_spec()} == learning_spec:
            return self
        reference = learning_spec["features"]
        source = learning_spec["features_source"]

        def checked_function(frame: pl.DataFrame) -> Any:
            loaded = self._resolve_function(reference)
            if loaded is None or loaded.source_digest != source:
                raise FeatureSkew(
                    f"The source of the feature function {reference} has changed since model "
                    f"{self.model} learned with it (its digest was {source[:12]}).",
                    "Restore the module as it was.",
                )
            return loaded.function(frame)

        function = FeatureFunction(reference, source, checked_function) if reference else None
        return replace(
            self, spec=self.spec.with_learning_spec(learning_spec), feature_function=function
        )

    def _resolve_function(self, reference: str) -> FeatureFunction | None:
        """The feature function that this reference names now; None if there is none."""
        if self.feature_function is not None and self.feature_function.reference == reference:
            return self.feature_function
        try:
            return self.load_function(reference) if self.load_function else None
        except SpecInvalid:  # its module no longer exists
            return None

    def with_repository(self, repository: ModelRepository) -> "ModelContext":
        """The same context over another repository, with nothing loaded."""
        return replace(self, repository=repository)
