"""`tidemill serve`: serve the champion of every model over HTTP."""

import logging
from typing import Annotated, Any

import typer

from tidemill import bootstrap
from tidemill.cli.options import console
from tidemill.settings import Settings


def serve(
    host: Annotated[str | None, typer.Option("--host", help="Default: 127.0.0.1.")] = None,
    port: Annotated[
        int | None, typer.Option("--port", help="Default: 8000; 0: a free port.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option("--workers", help="Worker processes; default: 1.")
    ] = None,
    models: Annotated[
        list[str] | None,
        typer.Option("--models", help="A model to serve; may be repeated; default: all."),
    ] = None,
) -> None:
    """Serve the champion of every model until SIGTERM or Ctrl-C.

    New deployments are taken into service without dropping requests. Further settings are
    TIDEMILL_SERVE__TOKEN, TIDEMILL_SERVE__MAX_ROWS, TIDEMILL_SERVE__PREDICTION_LOG and others.
    """
    from tidemill.bootstrap.server import run_server
    from tidemill.serving import shutdown

    shutdown.install_handler()
    settings = _settings_with(host=host, port=port, workers=workers, models=models)
    names = settings.serve.models or tuple(bootstrap.model_files(settings))
    specs = {name: bootstrap.load_spec(name, settings) for name in names}
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.INFO)

    def on_listening(address: str, bound_port: int) -> None:
        display_host = f"[{address}]" if ":" in address else address
        console.print(
            f"Serving {', '.join(specs)} at http://{display_host}:{bound_port} "
            "(API documentation: /docs).",
            markup=False,
            soft_wrap=True,
        )

    run_server(settings, specs, on_listening)


def _settings_with(**options: Any) -> Settings:
    """The settings, overridden by the options of the command line."""
    overrides = {name: value for name, value in options.items() if value is not None}
    settings = Settings()
    serve_settings = settings.serve.model_dump() | overrides
    return settings.model_copy(update={"serve": type(settings.serve)(**serve_settings)})


COMMANDS = (serve,)
