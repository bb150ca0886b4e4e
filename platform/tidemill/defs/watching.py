"""Mills that only look: kept open from tick to tick of the sensors, and never alone at work."""

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tidemill.core.errors import TidemillError
from tidemill.core.spec import ModelSpec

if TYPE_CHECKING:
    from tidemill.cycle.mill import ModelContext
    from tidemill.settings import Settings


@dataclass
class _Kept:
    """Connections of one model, and whose turn it is with them."""

    turn: threading.Lock = field(default_factory=threading.Lock)
    stack: ExitStack = field(default_factory=ExitStack)
    spec: ModelSpec | None = None
    mill: "ModelContext | None" = None

    def close(self) -> None:
        self.mill = None
        self.stack.close()


_KEPT: dict[str, _Kept] = {}
_PATIENCE = 10.0  # seconds; a tick that hangs says nothing, and Dagster ends it after a minute


def _impatient(settings: "Settings") -> "Settings":
    kafka = settings.kafka
    patience = min(kafka.timeout, _PATIENCE)
    return settings.model_copy(update={"kafka": kafka.model_copy(update={"timeout": patience})})


@contextmanager
def looking(model: str, spec: ModelSpec) -> Iterator["ModelContext"]:
    """The model's mill, for looking only: no lock is taken and no broker is started.

    Its connections are kept for the next look; after a named fault they are made anew. Raises
    `LogUnavailable` where the embedded broker does not run.
    """
    kept = _KEPT.setdefault(model, _Kept())
    with kept.turn:
        if kept.mill is None or kept.spec != spec:
            from tidemill import bootstrap
            from tidemill.settings import Settings

            kept.close()
            opened = bootstrap.open_model(model, _impatient(Settings()), spec=spec, start=False)
            kept.mill, kept.spec = kept.stack.enter_context(opened), spec
        try:
            yield kept.mill
        except TidemillError:
            kept.close()
            raise
