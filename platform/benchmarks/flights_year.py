"""The flights of 2013, processed by the real steps, with the results of each window."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl
from harness import CpuTimer, log

from tidemill import bootstrap
from tidemill.cli.simulate import produce_flights
from tidemill.core import learner
from tidemill.core.records import Candidate
from tidemill.core.report_records import Report
from tidemill.core.windows import Window
from tidemill.cycle.context import ModelContext
from tidemill.cycle.operations.manual_actions import close
from tidemill.cycle.steps.deploy import deploy
from tidemill.cycle.steps.evaluate import evaluate
from tidemill.cycle.steps.extract import extract
from tidemill.cycle.steps.initial import initial
from tidemill.cycle.steps.update import update
from tidemill.settings import Settings
from tidemill.settings_groups import KafkaSettings, MlflowSettings

MODEL, LAST_WINDOW = "flights", "2013-12-31"

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Day:
    """The results of one window; its `rows` are in canonical order, as is the float64 `label`."""

    number: int
    window: Window
    rows: pl.DataFrame
    candidate: Candidate
    report: Report

    @property
    def label(self) -> Array:
        return self.rows["late"].cast(pl.Float64).to_numpy()


@dataclass(frozen=True)
class Year:
    """All windows in order, the rows before the first one, and the CPU time of each step."""

    ctx: ModelContext
    history: pl.DataFrame
    days: list[Day]
    cpu_by_step: dict[str, CpuTimer] = field(default_factory=dict)


def benchmark_settings(home: Path) -> Settings:
    """Settings with the embedded Kafka, one thread and no MLflow, in this folder."""
    return Settings(
        home=home, num_threads=1, kafka=KafkaSettings(), mlflow=MlflowSettings(tracking_uri="off")
    )


@contextmanager
def run_year(home: Path, last_key: str = LAST_WINDOW) -> Iterator[Year]:
    """Produce the flights and process all windows up to `last_key`. Kafka runs during the block."""
    settings = benchmark_settings(home)
    spec = bootstrap.load_spec(MODEL, settings)
    last = spec.calendar.window(last_key)
    with bootstrap.kafka_cluster(settings):
        result = produce_flights(settings, spec, spec.calendar.after(last).end)
        log(f"{result.produced} flights produced")
        with bootstrap.open_model(spec, settings, exclusive=True) as ctx:
            close(ctx, last, "benchmark: end of the data")
            initial_record = initial(ctx)
            cpu_by_step = {step: CpuTimer() for step in ("extract", "update", "evaluate", "deploy")}
            windows = list(spec.calendar.between(spec.calendar.first, last))
            days = [
                _run_window(ctx, number, window, cpu_by_step)
                for number, window in enumerate(windows)
            ]
            manifest = ctx.repository.manifest("initial")
            assert manifest is not None
            assert manifest.rows == initial_record.rows
            yield Year(ctx, learner.sort_canonical(ctx.load_rows(manifest)), days, cpu_by_step)


def _run_window(
    ctx: ModelContext, number: int, window: Window, cpu_by_step: dict[str, CpuTimer]
) -> Day:
    with cpu_by_step["extract"].measure():
        extract(ctx, window)
    with cpu_by_step["update"].measure():
        candidate = update(ctx, window)
    with cpu_by_step["evaluate"].measure():
        report = evaluate(ctx, window)
    with cpu_by_step["deploy"].measure():
        deploy(ctx, window, final=True)
    if number % 25 == 0:
        seconds = cpu_by_step["update"].seconds
        log(f"{window.key}: {report.verdict}, update so far {seconds:.1f} CPU s")
    rows = learner.sort_canonical(ctx.load_rows(ctx.records.require_batch(window)))
    return Day(number, window, rows, candidate, report)
