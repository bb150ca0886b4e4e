"""Null lineages: candidates that are one model of real flights plus noise, run through the gate."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, partial

import numpy as np
import numpy.typing as npt
import polars as pl

from tidemill import bootstrap
from tidemill.core import canonical, learner, report
from tidemill.core.bundle import Model
from tidemill.core.decoding import Decoder
from tidemill.core.evaluation import EvaluationInputs, EvaluationRows, scored_roles
from tidemill.core.records import Candidate, FileRef, Sample
from tidemill.core.report_records import InputDigests, Report
from tidemill.core.spec import ModelSpec
from tidemill.core.windows import Window
from tidemill.settings import Settings
from tidemill.simulation import flights

Array = npt.NDArray[np.float64]

WEEKLY, DAILY = "0 0 * * 5", "0 0 * * *"
"""2013-02-01 was a Friday, so weeks start with the first window of the packaged model."""


@dataclass(frozen=True)
class ScoredWindow:
    """The flights of one window in order: labels, event times in ms, and a model's log odds."""

    window: Window
    label: Array
    timestamp: npt.NDArray[np.int64]
    logit: Array


def flights_spec(cron: str) -> ModelSpec:
    """The packaged flights model with these windows."""
    attributes = bootstrap.load_spec("flights", Settings()).model_dump(mode="json", by_alias=True)
    attributes["windows"]["cron"] = cron
    attributes["gate"]["slices"] = []
    return ModelSpec.create("flights", attributes)


@cache
def year() -> tuple[pl.DataFrame, Array]:
    """The year's rows in order, and the log odds of a model trained on January."""
    spec, events = flights_spec(DAILY), flights.events()
    values = [value.encode() for value in events["value"]]
    times = events["timestamp"].to_list()
    rows = learner.sort_canonical(Decoder(spec).decode(0, range(len(values)), times, values).rows)
    january = rows.filter(pl.col("_timestamp") < spec.calendar.first.start)
    bundle = learner.fit(
        spec, january, parent=None, continue_=False, golden=january, window=None, seed=0,
        num_threads=1,
    )  # fmt: skip
    p = Model.load(bundle, canonical.digest(bundle), None).predict(rows)
    return rows, np.log(p / (1 - p))


@cache
def scored_windows(cron: str) -> tuple[ScoredWindow, ...]:
    """The complete windows of the year from February on."""
    rows, logit = year()
    label, time = rows["late"].to_numpy(), rows["_timestamp"].to_numpy()
    calendar, windows = flights_spec(cron).calendar, []
    window = calendar.first
    while window.end <= time[-1]:
        a, b = np.searchsorted(time, [window.start, window.end])
        windows.append(ScoredWindow(window, label[a:b], time[a:b], logit[a:b]))
        window = calendar.after(window)
    return tuple(windows)


def verdict_counts(cron: str, sigma: float, seed: int) -> Counter[str]:
    """How often the gate gives each verdict if every candidate is the then champion plus noise.

    The noise has standard deviation `sigma` on the log odds, independent for each model and row.
    """
    return Counter(report.verdict for report in reports(cron, sigma, seed))


def reports(cron: str, sigma: float, seed: int) -> Iterator[Report]:
    """The gate's reports over the year, each continuing from the previous one."""
    spec, previous = flights_spec(cron), None
    derived_from = {_digest(0): _digest(0)}  # the champion at the time each model was trained
    for number, scored_window in enumerate(scored_windows(cron), 1):
        candidate = _candidate(number, scored_window)
        champion = previous.state.champion if previous else _digest(0)
        derived_from |= dict.fromkeys((candidate.digest, candidate.holdout or ""), champion)
        case = EvaluationInputs(
            model="flights", spec=spec, window=scored_window.window, candidate=candidate,
            initial=_digest(0), previous=previous, input_digests=InputDigests(None, "", ""),
        )  # fmt: skip

        predict = partial(_predict, scored_window, derived_from, sigma, (seed, number))
        tail = np.arange(len(scored_window.label)) >= len(scored_window.label) - candidate.tail_rows
        predictions = {d: predict(d) for d in set(scored_roles(case).values())}
        on_tail = predict(candidate.holdout or "")[tail]
        previous = report.build_report(
            case,
            EvaluationRows(scored_window.label, scored_window.timestamp, tail),
            predictions,
            on_tail,
        )
        yield previous


def _digest(model: int) -> str:
    """The digest of a model; 0 is the initial model, which has no noise."""
    return f"{model:064x}"


def _predict(
    scored_window: ScoredWindow,
    derived_from: dict[str, str],
    sigma: float,
    draw: tuple[int, int],
    digest: str,
) -> Array:
    """The model's probabilities: its noise plus that of all models it was derived from."""
    logit = scored_window.logit.copy()
    while digest != _digest(0):
        noise = np.random.default_rng((*draw, int(digest, 16)))
        logit += sigma * noise.standard_normal(len(logit))
        digest = derived_from[digest]
    probability: Array = 1 / (1 + np.exp(-logit))
    return probability


def _candidate(number: int, scored_window: ScoredWindow) -> Candidate:
    return Candidate(
        model="flights", lineage="null", window=scored_window.window.key, kind="continue", batch="",
        parent=_digest(2 * (number - 1)), digest=_digest(2 * number), num_iterations=0,
        tree_digest="", holdout=_digest(2 * number + 1),
        tail_rows=learner.tail_rows(len(scored_window.label)), since_retrain=0,
        sample=Sample(FileRef("", "", 0)), seed=0, libraries={},
    )  # fmt: skip
