"""The time from the record that confirms a window to responses by the new model.

    .venv/bin/python platform/benchmarks/freshness.py [--driver airflow|sensor] [--minutes 5]
                                                      [--windows 6] [--quick]

Starts the whole platform by `tidemill up`, on free ports and in a temporary folder, and waits until
its model has caught up with the live flights. From then on it consumes the topic, queries the
prediction server every 50 ms, and measures the windows as they close. The clock starts when the
record arrives that confirms the last boundary of a window, by the same rule as in planning; it
stops with the first response by the model that learned from the window. Every window contains a day
of flights, some 900 rows, regardless of its duration. The gate's policy is `always`, so that every
window deploys a model; everything else is the default of `up`.

Also reported: the time from a window's end to its confirmation, which depends on the stream, and
the parts. `driver` and `run_start` are the time that Airflow or the sensor, and Dagster, take to
start the run, if it is not already running.
"""

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import yaml
from freshness_observations import Observations
from harness import Figure, Goal, argument_parser, log, report_results

# The platform is started and stopped by the test support.
sys.path.insert(0, str(Path(__file__).parents[2] / "assets_tests"))

from support.servers.platform import MODEL, Platform
from tidemill import bootstrap
from tidemill.core.spec import ModelSpec
from tidemill.core.windows import Window
from tidemill.cycle.context import ModelContext
from tidemill.demo import processes
from tidemill.local import broker
from tidemill.services.live_flights import ensure_live_model
from tidemill.settings import Settings

GOALS = (Goal("fresh_seconds", at_most=10.0),)
ASSETS = ("kafka_batch", "candidate_model", "evaluation_report", "deployed_model")
CONFIRMATION_WAIT = "wait_for_confirmation"
_RESPONSE_TIMEOUT_SECONDS = 300.0


def main() -> int:
    parser = argument_parser(__doc__)
    parser.add_argument("--driver", choices=("airflow", "sensor"), default="airflow")
    parser.add_argument("--minutes", choices=("1", "2", "5"), default="5")
    parser.add_argument("--windows", type=int, default=6)
    args = parser.parse_args()
    minutes, count = ("1", 1) if args.quick else (args.minutes, args.windows)
    with ExitStack() as stack:
        home = Path(stack.enter_context(TemporaryDirectory(prefix="tidemill-fresh-")))
        platform = Platform(home, window_minutes=minutes)
        settings = Settings(home=home, up={"window_minutes": int(minutes)})
        spec = _always_deploying_spec(settings)
        stack.callback(platform.run_cli, "down")
        platform.up(*(() if args.driver == "airflow" else ("--no-airflow",)))
        log("the platform is up")
        broker_status = broker.status(settings.kafka_data)
        assert broker_status is not None
        ctx = stack.enter_context(bootstrap.open_model(spec, settings, start=False))
        _wait_until_caught_up(ctx)
        observations = stack.enter_context(
            _observe(platform, spec, broker_status.bootstrap_servers)
        )
        parts = _measure(observations, ctx, settings, count)
    figures: dict[str, Figure] = {"driver": args.driver, "minutes": int(minutes)}
    figures |= _figures(parts) | {"failed_requests": observations.failed_requests}
    return report_results("freshness", figures, GOALS, args.quick)


def _figures(all_parts: list[dict[str, float]]) -> dict[str, Figure]:
    """The total time from confirmation to response, and the median of each part."""
    totals = [sum(parts.values()) - parts[CONFIRMATION_WAIT] for parts in all_parts]
    figures: dict[str, Figure] = {
        "windows": len(all_parts),
        "fresh_seconds": median(totals),
        "fresh_worst": max(totals),
    }
    for name in all_parts[0]:
        figures[f"{name}_seconds"] = median(parts[name] for parts in all_parts)
    return figures


def _always_deploying_spec(settings: Settings) -> ModelSpec:
    """Write the model of `up`, as its first call would, with a gate that deploys every window."""
    models_folder = settings.up_data / "models"
    ensure_live_model(settings, models_folder, time.time_ns() // 1_000_000)
    file = models_folder / MODEL / "defs.yaml"
    document = yaml.safe_load(file.read_text())
    document["attributes"]["gate"] = {"policy": "always"}
    file.write_text(yaml.safe_dump(document, sort_keys=False))
    return bootstrap.load_spec(MODEL, settings)


@contextmanager
def _observe(platform: Platform, spec: ModelSpec, servers: str) -> Iterator[Observations]:
    observations = Observations(spec, spec.calendar.first)
    threading.Thread(target=observations.watch_topic, args=(servers,), daemon=True).start()
    threading.Thread(target=observations.poll_predictions, args=(platform,), daemon=True).start()
    try:
        yield observations
    finally:
        observations.stopped.set()


def _wait_until_caught_up(ctx: ModelContext) -> None:
    """Wait until the window before the current one is deployed."""
    calendar = ctx.spec.calendar
    while not _deployed_version(
        ctx, previous := calendar.before(_current_window(ctx)) or calendar.first
    ):
        time.sleep(1)
    log(f"caught up with window {previous}")


def _measure(
    observations: Observations, ctx: ModelContext, settings: Settings, count: int
) -> list[dict[str, float]]:
    """The parts of so many windows, starting with the current one."""
    window, all_parts = _current_window(ctx), list[dict[str, float]]()
    for _ in range(count):
        version = _wait_for_response(observations, ctx, window)
        all_parts.append(_parts(observations, ctx, settings, window, version))
        log(f"window {window}: " + ", ".join(f"{k} {v:.2f}" for k, v in all_parts[-1].items()))
        window = ctx.spec.calendar.after(window)
    return all_parts


def _current_window(ctx: ModelContext) -> Window:
    """The window that contains the current time."""
    return ctx.spec.calendar.containing(int(time.time() * 1000)) or ctx.spec.calendar.first


def _deployed_version(ctx: ModelContext, window: Window) -> int:
    """The version that the window deployed; 0 if there is none yet."""
    entries = ctx.chain().entries
    return next((s.entry.seq for s in entries if s.entry.as_of == window.key), 0)


def _wait_for_response(observations: Observations, ctx: ModelContext, window: Window) -> int:
    """Wait until the model of the window has responded. Returns its version."""
    deadline = window.end / 1000 + _RESPONSE_TIMEOUT_SECONDS
    while (version := _deployed_version(ctx, window)) not in observations.first_response_at:
        assert time.time() < deadline, f"no response by the model of window {window}"
        time.sleep(1)
    return version


def _parts(
    observations: Observations, ctx: ModelContext, settings: Settings, window: Window, version: int
) -> dict[str, float]:
    """The consecutive parts in seconds; each starts where the previous one ends."""
    previous = observations.confirmed_at[window.key]
    created, started, materialized_at = _dagster_times(settings, window)
    timestamps = {
        "driver": created,
        "run_start": started,
        "extract": materialized_at["kafka_batch"],
        "update": materialized_at["candidate_model"],
        "evaluate": materialized_at["evaluation_report"],
        "deploy": processes.ledger_appends(ctx, settings.kafka.ledger_topic)[version].appended_at,
        "swap": observations.first_response_at[version],
    }
    parts = {CONFIRMATION_WAIT: previous - window.end / 1000}
    for name, timestamp in timestamps.items():
        parts[name] = max(0.0, timestamp - previous)
        previous = max(previous, timestamp)
    return parts


def _dagster_times(settings: Settings, window: Window) -> tuple[float, float, dict[str, float]]:
    """When the window's run was created and started, and its assets were materialized."""
    import dagster as dg

    materialized_at, run = {}, ""
    with dg.DagsterInstance.from_config(str(settings.dagster_home)) as instance:
        for asset in ASSETS:
            records_filter = dg.AssetRecordsFilter(
                dg.AssetKey([MODEL, asset]), asset_partitions=[window.key]
            )
            records = instance.fetch_materializations(records_filter, limit=1).records
            if records:
                materialized_at[asset], run = records[0].timestamp, records[0].run_id
        (record,) = instance.get_run_records(dg.RunsFilter(run_ids=[run]))
    return record.create_timestamp.timestamp(), record.start_time or 0.0, materialized_at


if __name__ == "__main__":
    sys.exit(main())
