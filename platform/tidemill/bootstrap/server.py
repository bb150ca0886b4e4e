"""The prediction server of the settings."""

from collections.abc import Callable, Mapping
from functools import partial

from tidemill.core.spec import ModelSpec
from tidemill.serving.address import resolve_address
from tidemill.serving.config import ServerConfig
from tidemill.serving.supervisor import run_workers, shared_metrics
from tidemill.settings import Settings


def run_server(
    settings: Settings, specs: Mapping[str, ModelSpec], on_listening: Callable[[str, int], None]
) -> None:
    """Serve these models until SIGTERM, in as many processes as the settings configure.

    `on_listening` is called with address and port, in whichever process, once the first connection
    can be made. Raises `OperationNotAllowed`, `PrerequisiteMissing`, `SpecInvalid`.
    """
    address, port = resolve_address(settings.serve)
    config = ServerConfig(settings.serve, specs, address, port, on_listening)
    with shared_metrics(settings.serve.workers):
        # Imported before the workers are forked, so that they share the modules' memory.
        from tidemill.bootstrap.server_adapters import open_adapters
        from tidemill.serving.worker import run_worker

        open_own_adapters = partial(open_adapters, settings, list(specs))
        run_workers(settings.serve.workers, partial(run_worker, config, open_own_adapters))
