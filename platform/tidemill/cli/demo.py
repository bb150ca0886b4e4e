"""`tidemill demo`: the main job on real flights, from an empty folder to a model that serves."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Annotated

import typer

from tidemill import bootstrap
from tidemill.cli import beside
from tidemill.cli.backfill import run_backfill
from tidemill.cli.instance import dagster_home
from tidemill.cli.options import Deploy, console, print_table
from tidemill.cli.stream import produce_flights
from tidemill.core import canonical
from tidemill.core.errors import RequestsFailed, UnknownWindow
from tidemill.cycle.intervene import close
from tidemill.cycle.summary import Summary, summarize
from tidemill.serving.answers import TrafficSummary, LatencySummary, summarize_traffic
from tidemill.settings import Settings

MODEL = "flights"
LAST_DAY = "2013-12-31"
RATE, ROWS = 50, 500
"""Requests a second while windows are worked through, and the flights that they ask about."""


@dataclass(frozen=True)
class Told:
    """The summary of a demo, as `summary.json` has it; `seconds` and `serving` are of this run."""

    summary: Summary
    serving: TrafficSummary
    events_produced: int
    events_present: int
    seconds: dict[str, float]
    seconds_per_window: float
    dagster_run: str


def demo(
    until: Annotated[
        str, typer.Option("--until", help="The last day, at most 2013-12-31.")
    ] = "2013-03-31",
    deploy: Deploy = "each",
) -> None:
    """Run the main job on real flights of 2013, from Kafka to models that serve.

    A client asks the prediction server for the whole time; one request that fails is an error.
    """
    settings = Settings()
    spec = bootstrap.load_spec(MODEL, settings)
    first, last = spec.calendar.first, spec.calendar.window(until)
    if last.key > LAST_DAY:
        raise UnknownWindow(f"There are no flights on {until}.", f"The data end with {LAST_DAY}.")
    seconds: dict[str, float] = {}
    with (
        bootstrap.kafka_cluster(settings),  # one broker for all steps
        beside.server(settings, MODEL) as server,
    ):
        with _timed(seconds, "stream"):
            # A day more than asked for: a window closes by what comes after it.
            stream = produce_flights(settings, spec, spec.calendar.after(last).end)
        with bootstrap.open_model(MODEL, settings, spec=spec) as mill:
            if last.key == LAST_DAY:  # no later event will come to close it
                close(mill, last, "demo: the data end here")
            rows = beside.some_rows(mill, ROWS)
        with _timed(seconds, "windows"), beside.client(server, rows, RATE) as client:
            done = run_backfill(settings, MODEL, spec, first.key, last.key, deploy=deploy)
            with bootstrap.open_model(MODEL, settings, spec=spec) as mill:
                summary = summarize(mill, first, last)
                ledger = beside.ledger(mill, settings.kafka.ledger_topic)
            reached = server.reaches(max(ledger))
    told = Told(
        summary=summary,
        serving=summarize_traffic(client.answers, ledger),
        events_produced=stream.produced,
        events_present=stream.already_present,
        seconds=seconds,
        seconds_per_window=sum(done.windows.values()) / max(1, len(done.windows)),
        dagster_run=done.run_id,
    )
    path = settings.home / "demo" / "summary.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(canonical.encode(told))
    _print(settings, told, path)
    _check(told.serving, reached, server.log)


def _check(told: TrafficSummary, reached: bool, log: str) -> None:
    """Raises `RequestsFailed` unless every request was answered, the newest model's, too."""
    if told.failed or not told.requests or not reached:
        raise RequestsFailed(
            f"Of {told.requests} requests {told.failed} failed, and the newest model "
            f"{'answers' if reached else 'never answered'}."
            + "".join(f" {fault}." for fault in told.errors),
            f"The server's log may say why: {log}.",
        )


@contextmanager
def _timed(seconds: dict[str, float], what: str) -> Iterator[None]:
    started = time.monotonic()
    console.print(f"{what} …")
    yield
    seconds[what] = round(time.monotonic() - started, 2)


def _print(settings: Settings, told: Told, path: Path) -> None:
    """The summary as a person reads it, and where to look next."""
    s = told.summary
    losses = {
        "initial model": s.losses["initial"],
        "gate's champion": s.losses["champion"],
        "newest candidate": s.losses["challenger"],
    }
    for window, reason in s.reasons.items():
        console.print(f"{window}  {reason}", markup=False, soft_wrap=True)
    print_table(
        ["", ""],
        [
            ["windows", f"{s.windows}, {s.first} to {s.last}"],
            ["events", f"{s.rows} learned, {s.rejected} rejected, {s.late} late"],
            ["stream", f"{told.events_produced} produced, {told.events_present} there already"],
            ["verdicts", ", ".join(f"{count} {name}" for name, count in s.verdicts.items())],
            *([f"loss of the {name}", f"{loss:.4f}"] for name, loss in losses.items()),
            ["in service", f"{s.champion[:16]}, {s.deployments} ledger entries"],
            *_serving(told.serving),
            ["seconds", ", ".join(f"{name} {spent:.1f}" for name, spent in told.seconds.items())],
            ["seconds a window", f"{told.seconds_per_window:.2f}"],
        ],
    )
    console.print(
        f"\nThe same as JSON: {path}\n"
        f"Look next: `tidemill history {MODEL}`, `tidemill verify {MODEL} --recompute`, "
        f"and `tidemill ui` for lineage and reports ({dagster_home(settings)}).",
        soft_wrap=True,
    )


def _serving(told: TrafficSummary) -> Iterator[list[str]]:
    """What the client saw, a line each."""
    yield ["requests", f"{told.requests}, {told.failed} failed"]
    yield ["ms an answer", f"{_ms(told.between_swaps)}; in swaps {_ms(told.during_swaps)}"]
    if told.swaps:
        middle, most = median(told.first_response_ms), max(told.first_response_ms)
        waits = f"answering {middle:.0f} ms after the ledger (at most {most:.0f})"
        yield ["swaps", f"{told.swaps}, {waits}"]
    else:
        yield ["swaps", "none: what is in service now was so before the first request"]


def _ms(span: LatencySummary) -> str:
    if span.p50_ms is None or span.p99_ms is None:
        return "none"
    return f"{span.p50_ms:.1f} (p99 {span.p99_ms:.1f})"


COMMANDS = (demo,)
