"""`tidemill simulate`: produce the simulated streams that are part of tidemill."""

import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated
from zoneinfo import ZoneInfo

import typer

from tidemill import bootstrap
from tidemill.adapters.clock import now_ms
from tidemill.cli.options import Json, console, print_json
from tidemill.core.spec import ModelSpec
from tidemill.core.windows import to_ms
from tidemill.settings import Settings

if TYPE_CHECKING:
    from tidemill.simulation.produce import ProduceResult

TOPIC, LIVE_TOPIC = "flights", "flights-live"
_TIMEZONE = ZoneInfo("America/New_York")
_DEFAULT_START, _DEFAULT_END = "2013-01-01", "2014-01-02"

Speed = Annotated[
    float,
    typer.Option("--speed", min=0.001, help="With --live: the speed as a multiple of real time."),
]
LiveModel = Annotated[
    str | None,
    typer.Option(
        "--model",
        help="With --live, instead of the other options: as this model's asset "
        "`simulated_events` does, one day of flights per window, to the end.",
    ),
]

app = typer.Typer(
    help="Produce a simulated stream to its Kafka topic, each event exactly once.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.callback()
def _streams() -> None:
    """Keeps `flights` a subcommand, so that more streams can follow."""


@app.command()
def flights(
    start: Annotated[
        str, typer.Option("--from", help="The start, inclusive, in New York time.")
    ] = _DEFAULT_START,
    end: Annotated[str, typer.Option("--to", help="The end, exclusive.")] = _DEFAULT_END,
    live: Annotated[
        bool, typer.Option("--live", help="Simulate in real time, waiting for each event.")
    ] = False,
    speed: Speed = 1440.0,
    topic: Annotated[
        str | None, typer.Option("--topic", help=f"Default: {TOPIC}, with --live {LIVE_TOPIC}.")
    ] = None,
    model: LiveModel = None,
    as_json: Json = False,
) -> None:
    """Produce the flights that left New York in 2013, as they were reported in the range.

    If the command is interrupted or repeated, it continues from the topic's last event and produces
    no event twice. A day is closed as a window by an event of the next day, so let the range end a
    little after midnight.
    """
    if model is not None:
        result = _produce_for_model(Settings(), model)
    else:
        start_ms, end_ms = _parse_timestamp_ms("--from", start), _parse_timestamp_ms("--to", end)
        if end_ms < start_ms:
            raise typer.BadParameter(f"{end} is before {start}", param_hint="--to")
        topic_name = topic or (LIVE_TOPIC if live else TOPIC)
        result = _produce(Settings(), topic_name, start_ms, end_ms, speed if live else 0.0)
    if as_json:
        print_json(result)
        return
    for line in describe(result):
        console.print(line, markup=False, soft_wrap=True)


def produce_flights(settings: Settings, spec: ModelSpec, end_ms: int) -> "ProduceResult":
    """Produce the flights reported before `end_ms` (ms since 1970) that the topic of `spec` lacks.

    Raises the errors of `tidemill.simulation.produce.produce`.
    """
    return _produce(
        settings, spec.topic, _parse_timestamp_ms("--from", _DEFAULT_START), end_ms, 0.0
    )


def describe(result: "ProduceResult") -> list[str]:
    """The result in sentences."""
    lines = [
        f"{result.produced} events produced to topic {result.topic}, "
        f"{result.already_present} events of the range were already there."
    ]
    if result.backfilled:
        lines.append(
            f"Of these, {result.backfilled} are before --from, because a stream has no gaps."
        )
    if result.not_producible:
        lines.append(
            f"{result.not_producible} events of the range are before the topic's first event and "
            "were not produced, because a topic can only be appended to. Use another --topic."
        )
    last_events = ", ".join(
        f"{p}: {'none' if n is None else n}" for p, n in sorted(result.last_seq.items())
    )
    return [*lines, f"Last event of each partition: {last_events}."]


def _produce(
    settings: Settings, topic: str, start_ms: int, end_ms: int, speed: float
) -> "ProduceResult":
    from tidemill.simulation.flights import events
    from tidemill.simulation.produce import produce

    with bootstrap.kafka_cluster(settings) as cluster:
        return produce(
            events(),
            cluster,
            topic,
            start_ms,
            end_ms,
            lock_folder=settings.home / "locks",
            clock=now_ms,
            sleep=time.sleep,
            speed=speed,
        )


def _produce_for_model(settings: Settings, model: str) -> "ProduceResult":
    from tidemill.simulation.time_scale import FLIGHTS_END, TimeScale, produce_until

    spec = bootstrap.load_spec(model, settings)
    with bootstrap.kafka_cluster(settings) as cluster:
        return produce_until(
            cluster, spec.topic, TimeScale.for_spec(spec), FLIGHTS_END, settings.home / "locks"
        )


def _parse_timestamp_ms(option: str, text: str) -> int:
    """Milliseconds since 1970 of an ISO date or time, in New York time unless it has an offset."""
    try:
        timestamp = datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(
            f"{text!r} is not a date; write 2013-02-01 or 2013-02-01T06:00", param_hint=option
        ) from None
    return to_ms(
        (timestamp if timestamp.tzinfo else timestamp.replace(tzinfo=_TIMEZONE)).astimezone(UTC)
    )
