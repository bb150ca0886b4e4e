"""`tidemill demo`: the complete cycle on real flights, from an empty folder to predictions."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Annotated

import typer

from tidemill import bootstrap
from tidemill.cli.backfill import run_backfill
from tidemill.cli.options import Deploy, console, print_table
from tidemill.cli.simulate import produce_flights
from tidemill.core import canonical
from tidemill.core.errors import RequestsFailed, UnknownWindow
from tidemill.core.spec import ModelSpec
from tidemill.core.windows import Window
from tidemill.cycle.operations.manual_actions import close
from tidemill.cycle.operations.summary import Summary, summarize
from tidemill.demo import processes
from tidemill.demo.traffic import LatencySummary, TrafficSummary, summarize_traffic
from tidemill.services.dagster_home import ensure_dagster_home
from tidemill.settings import Settings
from tidemill.textfile import atomic_write_text

MODEL = "flights"
LAST_DAY = "2013-12-31"
REQUESTS_PER_SECOND, SAMPLE_ROWS = 50, 500
"""The load on the prediction server, and the number of distinct rows that it consists of."""


@dataclass(frozen=True)
class DemoResult:
    """The content of `summary.json`; everything but `summary` is about this run only."""

    summary: Summary
    serving: TrafficSummary
    events_produced: int
    events_present: int
    seconds: dict[str, float]
    seconds_per_window: float
    dagster_run: str


Until = Annotated[str, typer.Option("--until", help="The last day, at most 2013-12-31.")]


def demo(until: Until = "2013-03-31", deploy: Deploy = "each") -> None:
    """Run the complete cycle on real flights of 2013, from Kafka to predictions.

    A client sends requests to the prediction server meanwhile; a single failed request is an error.
    """
    settings = Settings()
    spec = bootstrap.load_spec(MODEL, settings)
    first, last = spec.calendar.first, spec.calendar.window(until)
    if last.key > LAST_DAY:
        raise UnknownWindow(f"There are no flights on {until}.", f"The data ends with {LAST_DAY}.")
    seconds: dict[str, float] = {}
    with (
        bootstrap.kafka_cluster(settings),  # one broker for all steps
        processes.prediction_server(settings, MODEL) as server,
    ):
        with _timed(seconds, "simulate"):
            # One day more than requested, because later events close a window.
            produced = produce_flights(settings, spec, spec.calendar.after(last).end)
        rows = _prepare_rows(settings, spec, last)
        with (
            _timed(seconds, "windows"),
            processes.running_load_client(server, rows, REQUESTS_PER_SECOND) as client,
        ):
            backfilled = run_backfill(settings, spec, first.key, last.key, deploy=deploy)
            with bootstrap.open_model(spec, settings) as ctx:
                summary = summarize(ctx, first, last)
                appends = processes.ledger_appends(ctx, settings.kafka.ledger_topic)
            newest_served = server.wait_for_version(max(appends))
    result = DemoResult(
        summary=summary,
        serving=summarize_traffic(client.responses, appends),
        events_produced=produced.produced,
        events_present=produced.already_present,
        seconds=seconds,
        seconds_per_window=sum(backfilled.windows.values()) / max(1, len(backfilled.windows)),
        dagster_run=backfilled.run_id,
    )
    _print_result(settings, result, _write_summary(settings, result))
    _check_requests(result.serving, newest_served, server.log_file)


def _prepare_rows(settings: Settings, spec: ModelSpec, last: Window) -> list[bytes]:
    """The rows of the requests; the last day of the data is closed, because no event follows it."""
    with bootstrap.open_model(spec, settings) as ctx:
        if last.key == LAST_DAY:
            close(ctx, last, "demo: the data ends here")
        return processes.sample_rows(ctx, SAMPLE_ROWS)


def _write_summary(settings: Settings, result: DemoResult) -> Path:
    path = settings.home / "demo" / "summary.json"
    atomic_write_text(path, canonical.encode(result).decode())
    return path


def _check_requests(traffic: TrafficSummary, newest_served: bool, log_file: str) -> None:
    """Raises `RequestsFailed` if a request failed, or if the newest model has not served any."""
    if traffic.failed or not traffic.requests or not newest_served:
        raise RequestsFailed(
            f"{traffic.failed} of {traffic.requests} requests failed, and the newest model "
            f"{'is in service' if newest_served else 'was never in service'}."
            + "".join(f" {error}." for error in traffic.errors),
            f"See the server's log: {log_file}.",
        )


@contextmanager
def _timed(seconds: dict[str, float], step: str) -> Iterator[None]:
    started = time.monotonic()
    console.print(f"{step} …")
    yield
    seconds[step] = round(time.monotonic() - started, 2)


def _print_result(settings: Settings, result: DemoResult, path: Path) -> None:
    """Print the summary for people, and the commands to continue with."""
    summary = result.summary
    losses = {
        "initial model": summary.losses["initial"],
        "gate's champion": summary.losses["champion"],
        "newest candidate": summary.losses["challenger"],
    }
    for window, reason in summary.reasons.items():
        console.print(f"{window}  {reason}", markup=False, soft_wrap=True)
    print_table(
        ["", ""],
        [
            ["windows", f"{summary.windows}, {summary.first} to {summary.last}"],
            ["events", f"{summary.rows} learned, {summary.rejected} rejected, {summary.late} late"],
            ["produced", f"{result.events_produced} events, {result.events_present} before"],
            ["verdicts", ", ".join(f"{count} {name}" for name, count in summary.verdicts.items())],
            *([f"loss of the {name}", f"{loss:.4f}"] for name, loss in losses.items()),
            ["in service", f"{summary.champion[:16]}, {summary.deployments} ledger entries"],
            *_traffic_rows(result.serving),
            [
                "seconds",
                ", ".join(f"{name} {elapsed:.1f}" for name, elapsed in result.seconds.items()),
            ],
            ["seconds per window", f"{result.seconds_per_window:.2f}"],
        ],
    )
    console.print(
        f"\nThis summary as JSON: {path}\n"
        f"Next: `tidemill history {MODEL}`, `tidemill verify {MODEL} --recompute`, "
        "and `tidemill ui` for lineage and reports "
        f"(DAGSTER_HOME={ensure_dagster_home(settings)}).",
        soft_wrap=True,
    )


def _traffic_rows(traffic: TrafficSummary) -> Iterator[list[str]]:
    """The rows about the client's requests."""
    yield ["requests", f"{traffic.requests}, {traffic.failed} failed"]
    between, during = traffic.between_swaps, traffic.during_swaps
    latencies = f"{_format_latency(between)}; during swaps {_format_latency(during)}"
    yield ["ms per response", latencies]
    if traffic.swaps:
        median_ms, max_ms = median(traffic.first_response_ms), max(traffic.first_response_ms)
        latency = f"{median_ms:.0f} ms after the ledger entry (at most {max_ms:.0f})"
        yield ["swaps", f"{traffic.swaps}, {latency}"]
    else:
        yield ["swaps", "none: the model in service was already served at the first request"]


def _format_latency(latency: LatencySummary) -> str:
    if latency.p50_ms is None or latency.p99_ms is None:
        return "none"
    return f"{latency.p50_ms:.1f} (p99 {latency.p99_ms:.1f})"


COMMANDS = (demo,)
