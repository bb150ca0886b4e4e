"""`tidemill simulate`: produces the streams that come with tidemill."""

import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated
from zoneinfo import ZoneInfo

import typer

from tidemill import bootstrap
from tidemill.cli.options import Json, console, print_json
from tidemill.core.spec import ModelSpec
from tidemill.core.windows import to_ms
from tidemill.settings import Settings

if TYPE_CHECKING:
    from tidemill.simulation.produce import ProduceResult

TOPIC, LIVE_TOPIC = "flights", "flights-live"
_TIMEZONE = ZoneInfo("America/New_York")
_DEFAULT_START, _DEFAULT_END = "2013-01-01", "2014-01-02"

app = typer.Typer(
    help="Produce a stream to its Kafka topic, each event once.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.callback()
def _streams() -> None:
    """Keeps `flights` a command of its own: more streams may follow."""


@app.command()
def flights(
    start: Annotated[
        str, typer.Option("--from", help="The first moment, included; New York's time.")
    ] = _DEFAULT_START,
    end: Annotated[str, typer.Option("--to", help="The last moment, excluded.")] = _DEFAULT_END,
    live: Annotated[
        bool, typer.Option("--live", help="Replay on today's clock, waiting for each event.")
    ] = False,
    speed: Annotated[
        float, typer.Option("--speed", min=0.001, help="With --live: how many times as fast.")
    ] = 1440.0,
    topic: Annotated[
        str | None, typer.Option("--topic", help=f"Default: {TOPIC}, with --live {LIVE_TOPIC}.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            help="With --live, in place of the others: as this model's asset `stretch` does, "
            "a day of flights in each of its windows, to the end.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Produce the flights of New York in 2013, as they were reported in the range.

    Repeated or interrupted, it goes on where the topic stands and produces no event twice. A day
    closes as a window when the next one has begun, so ask for a little more than whole days.
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
    """Bring the topic of `spec` up to the flights reported before `end`, ms since 1970.

    Raises as `tidemill.simulation.produce.produce`.
    """
    return _produce(
        settings, spec.topic, _parse_timestamp_ms("--from", _DEFAULT_START), end_ms, 0.0
    )


def describe(result: "ProduceResult") -> list[str]:
    """What a call did, for a person."""
    lines = [
        f"{result.produced} events produced to topic {result.topic}, "
        f"{result.already_present} of the range there already."
    ]
    if result.backfilled:
        lines.append(f"Of these, {result.backfilled} before --from: a stream has no holes.")
    if result.not_producible:
        lines.append(
            f"{result.not_producible} events of the range lie before the topic's first and were not "
            "produced: nothing can be put in front. Name another --topic to have them."
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
            clock=lambda: time.time_ns() // 1_000_000,
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
    """Milliseconds since 1970 of an ISO date or time, in New York unless it names its zone."""
    try:
        timestamp = datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(
            f"{text!r} is no date; write 2013-02-01 or 2013-02-01T06:00", param_hint=option
        ) from None
    return to_ms(
        (timestamp if timestamp.tzinfo else timestamp.replace(tzinfo=_TIMEZONE)).astimezone(UTC)
    )
