"""Mills that only look: kept open from tick to tick of the sensors, and never alone at work."""

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tidemill.core.errors import TidemillError
from tidemill.core.spec import ModelSpec

if TYPE_CHECKING:
    from tidemill.cycle.context import ModelContext
    from tidemill.settings import Settings


@dataclass
class _Connection:
    """Connections of one model, and whose turn it is with them."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    stack: ExitStack = field(default_factory=ExitStack)
    spec: ModelSpec | None = None
    ctx: "ModelContext | None" = None

    def close(self) -> None:
        self.ctx = None
        self.stack.close()


_CONNECTIONS: dict[str, _Connection] = {}
_MAX_TIMEOUT_SECONDS = (
    10.0  # seconds; a tick that hangs says nothing, and Dagster ends it after a minute
)


def _with_short_timeout(settings: "Settings") -> "Settings":
    kafka = settings.kafka
    timeout = min(kafka.timeout, _MAX_TIMEOUT_SECONDS)
    return settings.model_copy(update={"kafka": kafka.model_copy(update={"timeout": timeout})})


@contextmanager
def open_readonly(model: str, spec: ModelSpec) -> Iterator["ModelContext"]:
    """The model's mill, for looking only: no lock is taken and no broker is started.

    Its connections are kept for the next look; after a named fault they are made anew. Raises
    `LogUnavailable` where the embedded broker does not run.
    """
    connection = _CONNECTIONS.setdefault(model, _Connection())
    with connection.lock:
        if connection.ctx is None or connection.spec != spec:
            from tidemill import bootstrap
            from tidemill.settings import Settings

            connection.close()
            opened = bootstrap.open_model(
                model, _with_short_timeout(Settings()), spec=spec, start=False
            )
            connection.ctx, connection.spec = connection.stack.enter_context(opened), spec
        try:
            yield connection.ctx
        except TidemillError:
            connection.close()
            raise
