"""A mill over the adapters in memory, for what needs neither Kafka nor models."""

from tidemill.adapters.memory.event_log import MemoryLedger, MemoryLog
from tidemill.adapters.memory.store import MemoryStore
from tidemill.core.spec import ModelSpec
from tidemill.cycle.context import ModelContext
from tidemill.cycle.repository import ModelRepository
from tidemill.ports import Clock


class NoValidation:
    """The prover of a mill that has no models."""

    def validate(self, bundle: bytes) -> None:
        raise AssertionError("no model is deployed here")


def make_memory_context(spec: ModelSpec, log: MemoryLog, clock: Clock) -> ModelContext:
    """The mill of a model `m` that has nothing yet."""
    return ModelContext(
        "m", spec, log, ModelRepository(MemoryStore(), "m"), MemoryLedger(), NoValidation(), clock
    )
