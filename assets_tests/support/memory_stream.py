"""A whole model in memory: the stream of a bench without Kafka, for what needs no broker."""

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from bench import SPEC, events
from tidemill.adapters.feature_function import load_feature_function
from tidemill.adapters.memory.log import MemoryLedger, MemoryLog
from tidemill.adapters.memory.prover import InProcessValidator
from tidemill.adapters.memory.store import MemoryStore
from tidemill.core.spec import ModelSpec
from tidemill.cycle.archive import ModelRepository
from tidemill.cycle.mill import ModelContext
from tidemill.cycle.recompute import recompute
from tidemill.cycle.verify import VerificationReport, verify

TOPIC = "events"


def flowing() -> ModelContext:
    """The mill of a model `m` over an empty topic of two partitions."""
    log = MemoryLog()
    log.create_topic(TOPIC, 2)
    archive = ModelRepository(MemoryStore(), "m")
    return ModelContext("m", spec_of(), log, archive, MemoryLedger(), InProcessValidator(), lambda: 0)


def spec_of(**changes: Any) -> ModelSpec:
    """The bench's spec with these attributes instead."""
    return ModelSpec.model_validate({"topic": TOPIC, **SPEC, **changes})


def changed(mill: ModelContext, **changes: Any) -> ModelContext:
    """The mill as a new process has it, after these attributes of defs.yaml were changed."""
    spec = spec_of(**changes)
    function = load_feature_function(spec.features) if spec.features else None
    loads = load_feature_function
    return replace(mill, spec=spec, features=function, functions=loads)


def flow(
    mill: ModelContext, first: int, last: int, topic: str = TOPIC, partitions: int = 2, **more: Any
) -> None:
    """Events of the windows `first` to `last`, 160 in each, with these fields beside their own."""
    log = mill.event_log
    assert isinstance(log, MemoryLog)
    for number in range(first, last + 1):
        for at, (timestamp, value) in enumerate(events(number, 160)):
            told = json.dumps({**json.loads(value), **_of(more, at)}).encode()
            log.append(topic, at % partitions, told, timestamp)


def right(mill: ModelContext) -> VerificationReport:
    """Nothing that is stored is found wrong, nor comes out otherwise when made again."""
    found = verify(mill)
    assert found.findings == []
    recompute(mill, ModelRepository(MemoryStore(), mill.model), found, lambda _: None)
    assert found.findings == []
    return found


def files(mill: ModelContext) -> dict[str, bytes]:
    """Everything in the store by its name."""
    store = mill.repository.store
    return {name: store.get(name) or b"" for name in store.names("m/")}


def _of(more: Mapping[str, Any], at: int) -> dict[str, Any]:
    return {name: told(at) if callable(told) else told for name, told in more.items()}
