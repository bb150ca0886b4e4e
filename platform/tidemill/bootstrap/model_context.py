"""A model's context over the adapters of the settings."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from tidemill import failpoints
from tidemill.bootstrap.kafka import kafka_cluster
from tidemill.bootstrap.locks import exclusive_lock
from tidemill.bootstrap.models import model_file
from tidemill.bootstrap.store import make_store
from tidemill.core.errors import SpecInvalid
from tidemill.core.spec import ModelSpec
from tidemill.cycle.context import ModelContext
from tidemill.cycle.repository import ModelRepository
from tidemill.ports import Store
from tidemill.settings import Settings


@contextmanager
def open_model(
    spec: ModelSpec,
    settings: Settings,
    *,
    actor: str = "tidemill",
    exclusive: bool = False,
    start: bool = True,
) -> Iterator[ModelContext]:
    """A model's context over the real adapters; `exclusive` holds the model's lock meanwhile.

    Kafka is the cluster of the settings, or the embedded broker, which is started if necessary (and
    if `start` allows it) and then stopped at the end. Raises `AlreadyRunning`, `SpecInvalid` for a
    feature function that cannot be loaded, `LogUnavailable`, `StoreUnavailable`.
    """
    from tidemill.adapters import kafka
    from tidemill.adapters.bundle_validation.fork_server import ForkServerValidator
    from tidemill.adapters.clock import now_ms
    from tidemill.adapters.feature_function import load_feature_function

    failpoints.arm(settings.failpoints)
    with ExitStack() as stack:
        store = stack.enter_context(_open_store(spec.name, settings, exclusive))
        cluster = stack.enter_context(kafka_cluster(settings, start=start))
        validator = stack.enter_context(ForkServerValidator())
        if exclusive:  # a validation will follow, and the fork server's imports take a while
            validator.start()
        yield ModelContext(
            spec=spec,
            event_log=stack.enter_context(kafka.KafkaLog(cluster)),
            repository=ModelRepository(store, spec.name),
            ledger=stack.enter_context(kafka.KafkaLedger(cluster)),
            validator=validator,
            clock=now_ms,
            feature_function=load_feature_function(spec.features) if spec.features else None,
            load_function=load_feature_function,
            historical_data=_historical_data_reader(spec, settings),
            num_threads=settings.num_threads,
            actor=actor,
        )


@contextmanager
def open_model_readonly(
    spec: ModelSpec, settings: Settings
) -> Iterator[tuple[ModelContext, ModelRepository]]:
    """A model's context with its store, but with an empty log and an empty ledger.

    The second value is a repository over the same store that hides the reports and keeps everything
    that is written in memory.
    """
    from tidemill.adapters import memory
    from tidemill.adapters.feature_function import load_feature_function

    store = make_store(settings)
    ctx = ModelContext(
        spec=spec,
        event_log=memory.MemoryLog(),
        repository=ModelRepository(store, spec.name),
        ledger=memory.MemoryLedger(),
        validator=memory.InProcessValidator(),
        clock=lambda: 0,
        feature_function=load_feature_function(spec.features) if spec.features else None,
        load_function=load_feature_function,
    )
    yield ctx, ModelRepository(memory.OverlayStore(store, f"{spec.name}/reports/"), spec.name)


@contextmanager
def _open_store(model: str, settings: Settings, exclusive: bool) -> Iterator[Store]:
    """The store; with `exclusive`, under the model's lock and after its recovery."""
    store = make_store(settings)
    if not exclusive:
        yield store
        return
    with exclusive_lock(model, settings):
        store.recover(model)
        yield store


def _historical_data_reader(
    spec: ModelSpec, settings: Settings
) -> Callable[[], tuple[str, bytes]] | None:
    """A function that reads name and bytes of `initial.file`; None if the spec names no file."""
    if spec.initial.file is None:
        return None
    path = model_file(spec.name, settings).parent / spec.initial.file

    def read() -> tuple[str, bytes]:
        try:
            return path.name, path.read_bytes()
        except OSError as error:
            raise SpecInvalid(
                f"`initial.file` of model {spec.name} cannot be read: {error}.",
                "Put the file there, or change `initial.file` in defs.yaml.",
            ) from error

    return read
