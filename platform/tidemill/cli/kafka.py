"""`tidemill kafka`: start, run and stop the embedded broker, and show its status."""

import signal
import sys
import time

import typer

from tidemill.cli.options import Json, console, print_json
from tidemill.core.errors import LogUnavailable, OperationNotAllowed
from tidemill.local import broker
from tidemill.settings import Settings

_POLL_INTERVAL_SECONDS = 0.5

app = typer.Typer(
    help="The embedded Apache Kafka of this machine.", no_args_is_help=True, rich_markup_mode=None
)


@app.command()
def start() -> None:
    """Start the broker; it runs until it is stopped."""
    settings = _embedded_settings()
    running = broker.start(settings.kafka_data)
    outcome = "was started" if running.started else "is already running"
    console.print(f"Kafka {outcome} at {running.bootstrap_servers} (process {running.pid}).")


@app.command()
def run() -> None:
    """Run the broker in the foreground until SIGTERM, Ctrl-C, or its own end."""
    settings = _embedded_settings()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with broker.running(settings.kafka_data) as bootstrap_servers:
        console.print(f"Kafka is running at {bootstrap_servers}.")
        while broker.status(settings.kafka_data) is not None:
            time.sleep(_POLL_INTERVAL_SECONDS)
    raise LogUnavailable(
        f"The embedded broker of {settings.kafka_data} has ended.",
        f"See its log: {settings.kafka_data / 'broker.log'}.",
    )


@app.command()
def stop() -> None:
    """Stop the broker; its topics are kept."""
    stopped = broker.stop(_embedded_settings().kafka_data)
    console.print("Kafka is stopped; its topics are kept." if stopped else "Kafka was not running.")


@app.command()
def status(as_json: Json = False) -> None:
    """Show whether the broker is running, and its address."""
    settings = _embedded_settings()
    running = broker.status(settings.kafka_data)
    if as_json:
        print_json(
            {
                "running": running is not None,
                "bootstrap_servers": running and running.bootstrap_servers,
                "pid": running and running.pid,
                "folder": str(settings.kafka_data),
            }
        )
    elif running is None:
        console.print(f"Kafka is not running; its folder is {settings.kafka_data}.")
    else:
        console.print(f"Kafka is running at {running.bootstrap_servers} (process {running.pid}).")


def _embedded_settings() -> Settings:
    settings = Settings()
    if settings.kafka.bootstrap_servers is not None:
        raise OperationNotAllowed(
            f"TIDEMILL_KAFKA__BOOTSTRAP_SERVERS is set to {settings.kafka.bootstrap_servers}, so "
            "the embedded broker is not used.",
            "Unset the variable to use the embedded broker.",
        )
    return settings
