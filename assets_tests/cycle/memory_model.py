"""Models in memory, for tests that need no broker."""

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from support.models.harness import SPEC, events
from tidemill.adapters.feature_function import load_feature_function
from tidemill.adapters.memory import MemoryLedger, MemoryLog
from tidemill.adapters.memory.store import MemoryStore
from tidemill.adapters.memory.validator import InProcessValidator
from tidemill.core.spec import ModelSpec
from tidemill.cycle.context import ModelContext
from tidemill.cycle.repository import ModelRepository
from tidemill.ports import Clock

TOPIC = "events"


def make_memory_model() -> ModelContext:
    """The context of a model `m` on an empty topic of two partitions."""
    log = MemoryLog()
    log.create_topic(TOPIC, 2)
    repository = ModelRepository(MemoryStore(), "m")
    return ModelContext(
        make_spec(), log, repository, MemoryLedger(), InProcessValidator(), lambda: 0
    )


def make_memory_context(spec: ModelSpec, log: MemoryLog, clock: Clock) -> ModelContext:
    """The context of a model `m` that has no records yet, and that never deploys a model."""
    repository = ModelRepository(MemoryStore(), "m")
    return ModelContext(spec, log, repository, MemoryLedger(), NoValidation(), clock)


class NoValidation:
    """A bundle validator that must not be called."""

    def validate(self, bundle: bytes) -> None:
        raise AssertionError("no model is deployed here")


def make_spec(**changes: Any) -> ModelSpec:
    """The harness's spec with these attributes replaced."""
    return ModelSpec.create("m", {"topic": TOPIC, **SPEC, **changes})


def with_changes(ctx: ModelContext, **changes: Any) -> ModelContext:
    """The context that a new process has after these attributes of defs.yaml were changed."""
    spec = make_spec(**changes)
    function = load_feature_function(spec.features) if spec.features else None
    loader = load_feature_function
    return replace(ctx, spec=spec, feature_function=function, load_function=loader)


def produce(
    ctx: ModelContext,
    first: int,
    last: int,
    topic: str = TOPIC,
    partitions: int = 2,
    **extra_fields: Any,
) -> None:
    """Produce 160 events per window for windows `first` to `last`, with these extra fields."""
    log = ctx.event_log
    assert isinstance(log, MemoryLog)
    for number in range(first, last + 1):
        for index, (timestamp, value) in enumerate(events(number, 160)):
            message = json.dumps(
                {**json.loads(value), **_extra_values(extra_fields, index)}
            ).encode()
            log.append(topic, index % partitions, message, timestamp)


def stored_files(ctx: ModelContext) -> dict[str, bytes]:
    """Every stored file by name."""
    store = ctx.repository.store
    return {name: store.get(name) or b"" for name in store.names("m/")}


def _extra_values(extra_fields: Mapping[str, Any], index: int) -> dict[str, Any]:
    return {
        name: value(index) if callable(value) else value for name, value in extra_fields.items()
    }
