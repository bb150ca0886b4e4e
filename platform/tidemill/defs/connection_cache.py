"""Read-only contexts of the models, kept open between ticks of the sensors."""

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
    """The open connections of one model; the lock is held while they are used."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    stack: ExitStack = field(default_factory=ExitStack)
    spec: ModelSpec | None = None
    ctx: "ModelContext | None" = None

    def close(self) -> None:
        self.ctx = None
        self.stack.close()


_CONNECTIONS: dict[str, _Connection] = {}
_MAX_TIMEOUT_SECONDS = 10.0
"""The longest timeout of Kafka calls: Dagster ends a hanging tick after 60 s without a reason."""


def _with_short_timeout(settings: "Settings") -> "Settings":
    kafka = settings.kafka
    timeout = min(kafka.timeout, _MAX_TIMEOUT_SECONDS)
    return settings.model_copy(update={"kafka": kafka.model_copy(update={"timeout": timeout})})


@contextmanager
def open_readonly(spec: ModelSpec) -> Iterator["ModelContext"]:
    """A read-only context of the model: no lock is taken and no broker is started.

    Its connections are kept for the next call; after a named error they are opened again. Raises
    `LogUnavailable` if the embedded broker is not running.
    """
    connection = _CONNECTIONS.setdefault(spec.name, _Connection())
    with connection.lock:
        if connection.ctx is None or connection.spec != spec:
            from tidemill import bootstrap
            from tidemill.settings import Settings

            connection.close()
            opened = bootstrap.open_model(spec, _with_short_timeout(Settings()), start=False)
            connection.ctx, connection.spec = connection.stack.enter_context(opened), spec
        try:
            yield connection.ctx
        except TidemillError:
            connection.close()
            raise
