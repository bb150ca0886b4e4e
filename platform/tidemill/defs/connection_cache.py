"""Read-only contexts of the models, kept open between ticks of the sensors."""

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tidemill.core.errors import TidemillError
from tidemill.core.spec import ModelSpec

if TYPE_CHECKING:
    from tidemill.cycle.context import ModelContext


@dataclass
class _Connection:
    """The open connections of one model; the lock is held while they are used."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    stack: ExitStack = field(default_factory=ExitStack)
    ctx: "ModelContext | None" = None

    def close(self) -> None:
        self.ctx = None
        self.stack.close()


@dataclass
class ConnectionCache:
    """Contexts that `open_model` has opened, one per model; ticks may run in several threads."""

    open_model: "Callable[[ModelSpec], AbstractContextManager[ModelContext]]"
    _connections: dict[str, _Connection] = field(default_factory=dict, init=False)

    @contextmanager
    def open(self, spec: ModelSpec) -> "Iterator[ModelContext]":
        """The context of this spec: the one of the last call, unless the spec has changed.

        After a named error in the block it is closed, and the next call opens another one.
        """
        connection = self._connections.setdefault(spec.name, _Connection())
        with connection.lock:
            if connection.ctx is None or connection.ctx.spec != spec:
                connection.close()
                connection.ctx = connection.stack.enter_context(self.open_model(spec))
            try:
                yield connection.ctx
            except TidemillError:
                connection.close()
                raise

    def close(self) -> None:
        """Close every context."""
        for connection in self._connections.values():
            with connection.lock:
                connection.close()
