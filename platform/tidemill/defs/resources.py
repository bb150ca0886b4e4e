"""The resource of assets, checks and sensors: what they open with the settings of their process."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tidemill.core.spec import ModelSpec
from tidemill.defs.connection_cache import ConnectionCache
from tidemill.settings import Settings

if TYPE_CHECKING:  # these import polars and Kafka's client, which definitions must not
    from tidemill.adapters.kafka import Cluster
    from tidemill.cycle.context import ModelContext
    from tidemill.ports import Tracker

OpenModel = Callable[..., AbstractContextManager["ModelContext"]]
"""Opens the context of a spec with settings; its keywords are `exclusive` and `start`."""

_MAX_TIMEOUT_SECONDS = 10.0
"""The longest timeout of a sensor's calls: Dagster ends a hanging tick after 60 s, silently."""


def _open_model(
    spec: ModelSpec, settings: Settings, *, exclusive: bool = False, start: bool = True
) -> AbstractContextManager["ModelContext"]:
    from tidemill import bootstrap

    return bootstrap.open_model(spec, settings, exclusive=exclusive, start=start)


def _make_tracker(settings: Settings) -> "Tracker | None":
    from tidemill import bootstrap

    return bootstrap.make_tracker(settings)


@dataclass
class TidemillResource:
    """Opens models, Kafka, the tracker and alerts with the settings of one process.

    One object serves the whole process, since it keeps the connections of the sensors. By default
    `open_model` and `make_tracker` are those of `tidemill.bootstrap`, over the real adapters.
    """

    settings: Settings
    open_model: OpenModel = _open_model
    make_tracker: "Callable[[Settings], Tracker | None]" = _make_tracker
    _opened: "dict[str, ModelContext]" = field(default_factory=dict, init=False)
    _connections: ConnectionCache = field(init=False)

    def __post_init__(self) -> None:
        self._connections = ConnectionCache(self._open_for_sensor)

    @contextmanager
    def open(self, spec: ModelSpec) -> "Iterator[ModelContext]":
        """The model's context under the model's exclusive lock.

        A nested call for the same spec yields the same context, so a command can hold the model
        while Dagster runs its assets. Raises `AlreadyRunning`, `LogUnavailable`, and what the
        adapters raise.
        """
        opened = self._opened.get(spec.name)
        if opened is not None and opened.spec == spec:
            yield opened
            return
        with self.open_model(spec, self.settings, exclusive=True) as ctx:
            self._opened[spec.name] = ctx
            try:
                yield ctx
            finally:
                del self._opened[spec.name]

    def open_readonly(self, spec: ModelSpec) -> "AbstractContextManager[ModelContext]":
        """The same for reading, without the lock; no broker is started."""
        return self.open_model(spec, self.settings, start=False)

    def open_cached(self, spec: ModelSpec) -> "AbstractContextManager[ModelContext]":
        """As `open_readonly`, with short timeouts, and connections that are kept for the next call.

        After a named error they are opened again. Raises `LogUnavailable` if the embedded broker is
        not running.
        """
        return self._connections.open(spec)

    def close(self) -> None:
        """Close the connections that are kept."""
        self._connections.close()

    def is_locked(self, model: str) -> bool:
        """Whether a process works on the model now."""
        from tidemill import bootstrap

        return bootstrap.is_locked(model, self.settings)

    def kafka_cluster(self) -> "AbstractContextManager[Cluster]":
        """The Kafka cluster; the embedded broker is started if necessary, and then stopped."""
        from tidemill import bootstrap

        return bootstrap.kafka_cluster(self.settings)

    def tracker(self) -> "Tracker | None":
        """The tracker; None if tracking is turned off."""
        return self.make_tracker(self.settings)

    def alert_sender(self) -> Callable[[Mapping[str, object]], None] | None:
        """A function that sends an alert; None if alerts are not configured."""
        from tidemill import bootstrap

        return bootstrap.make_alert_sender(self.settings)

    def _open_for_sensor(self, spec: ModelSpec) -> "AbstractContextManager[ModelContext]":
        kafka = self.settings.kafka
        timeout = min(kafka.timeout, _MAX_TIMEOUT_SECONDS)
        update = {"kafka": kafka.model_copy(update={"timeout": timeout})}
        return self.open_model(spec, self.settings.model_copy(update=update), start=False)
