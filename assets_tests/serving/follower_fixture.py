"""A ledger follower with its ledger, store, local copy and validation in memory."""

from dataclasses import dataclass, field

from serving import small_models
from support.kafka.ledgers import manual_entry
from tidemill.adapters.feature_function import load_feature_function
from tidemill.adapters.memory import InProcessValidator, MemoryFeed, MemoryLedger, MemoryStore
from tidemill.core import canonical
from tidemill.core.ledger import Entry, build_chain
from tidemill.cycle.model_store import ModelStore
from tidemill.ports import BundleValidator
from tidemill.serving.ledger_follower import LedgerFollower
from tidemill.serving.loading import PredictorLoader
from tidemill.serving.local_copy import LocalCopy
from tidemill.serving.model_follower import ModelFollower
from tidemill.serving.model_state import ModelState, ServedModel
from tidemill.serving.schemas import RequestSchema
from tidemill.serving.status import Status

SPEC = small_models.spec()


def distinct_bundles() -> list[bytes]:
    """Three bundles with different predictions."""
    return [small_models.bundle(SPEC, seed) for seed in (1, 2, 3)]


@dataclass
class FollowerFixture:
    """A ledger, a store with bundles, a local copy, and the follower that uses them.

    The entries are those of model "m"; the follower may follow other models, too.
    """

    bundles: list[bytes]
    models: tuple[str, ...] = ("m",)
    ledger: MemoryLedger = field(default_factory=MemoryLedger)
    copy_store: MemoryStore = field(default_factory=MemoryStore)
    model_store: ModelStore = field(default_factory=lambda: ModelStore(MemoryStore(), "m"))
    now_ms: int = 1_000_000
    events: list[str] = field(default_factory=list)
    validator: BundleValidator = field(default_factory=InProcessValidator)

    def __post_init__(self) -> None:
        for bundle in self.bundles:
            self.model_store.put_bundle(bundle)
        self.start()

    def start(self) -> None:
        """Create a new follower over the same state; it has not polled the ledger yet."""
        models = [self._model_follower(name) for name in self.models]
        self.follower = LedgerFollower(MemoryFeed(self.ledger), models, self._now, 5_000)
        specs = dict.fromkeys(self.models, SPEC)
        self.status = Status(self.follower.states, self.follower.connection, specs, self._now)

    def _model_follower(self, name: str) -> ModelFollower:
        return ModelFollower(
            RequestSchema(name, SPEC.fields, 100),
            self.model_store.bundle,
            PredictorLoader(self.validator, load_feature_function),
            LocalCopy(self.copy_store),
            self._now,
            on_event=lambda model, event: self.events.append(event),
        )

    def digest(self, number: int) -> str:
        return canonical.digest(self.bundles[number])

    def entry(self, digest: str, reason: str = "") -> Entry:
        ledger_chain = build_chain("m", self.ledger.snapshot()[1])
        return manual_entry(ledger_chain, digest, "operator", reason)

    def deploy(self, digest: str, reason: str = "") -> Entry:
        entry = self.entry(digest, reason)
        self.ledger.append("m", canonical.encode(entry))
        return entry

    def step(self) -> bool:
        return self.follower.step(0)

    @property
    def model(self) -> ModelState:
        return self.follower.states["m"]

    @property
    def served(self) -> ServedModel:
        assert self.model.served is not None
        return self.model.served

    def _now(self) -> int:
        return self.now_ms
