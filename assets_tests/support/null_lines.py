"""Null lines: candidates that are one model of real flights and some noise, taken to the gate."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, partial

import numpy as np
import numpy.typing as npt
import polars as pl

from tidemill import bootstrap
from tidemill.adapters.streams import flights
from tidemill.core import canonical, learner, report
from tidemill.core.bundle import Model
from tidemill.core.decoding import Decoder
from tidemill.core.records import Candidate, FileRef, Sample
from tidemill.core.report import EvaluationInputs, InputDigests, Report, EvaluationRows
from tidemill.core.spec import ModelSpec
from tidemill.core.windows import Window
from tidemill.settings import Settings

Array = npt.NDArray[np.float64]

WEEKLY, DAILY = "0 0 * * 5", "0 0 * * *"
"""2013-02-01 was a Friday: weeks begin with the first window of the packaged model."""


@dataclass(frozen=True)
class Scored:
    """Flights of one window in order: labels, event times in ms, and one model's log odds."""

    window: Window
    label: Array
    timestamp: npt.NDArray[np.int64]
    logit: Array


def flights_spec(cron: str) -> ModelSpec:
    """The packaged flights model with these windows."""
    told = bootstrap.load_spec("flights", Settings()).model_dump(mode="json", by_alias=True)
    told["windows"]["cron"] = cron
    told["gate"]["slices"] = []
    return ModelSpec.model_validate(told)


@cache
def year() -> tuple[pl.DataFrame, Array]:
    """The year's rows in order, and the log odds of a model that has learned from January."""
    spec, told = flights_spec(DAILY), flights.events()
    values = [value.encode() for value in told["value"]]
    times = told["timestamp"].to_list()
    rows = learner.sort_canonical(Decoder(spec).decode(0, range(len(values)), times, values).rows)
    january = rows.filter(pl.col("_timestamp") < spec.calendar.first.start)
    bundle = learner.fit(
        spec, january, parent=None, continue_=False, golden=january, window=None, seed=0,
        num_threads=1,
    )  # fmt: skip
    p = Model.load(bundle, canonical.digest(bundle), None).predict(rows)
    return rows, np.log(p / (1 - p))


@cache
def scored(cron: str) -> tuple[Scored, ...]:
    """The year's whole windows from February on; what is left at the end is no window."""
    rows, logit = year()
    label, time = rows["late"].to_numpy(), rows["_timestamp"].to_numpy()
    calendar, found = flights_spec(cron).calendar, []
    window = calendar.first
    while window.end <= time[-1]:
        a, b = np.searchsorted(time, [window.start, window.end])
        found.append(Scored(window, label[a:b], time[a:b], logit[a:b]))
        window = calendar.after(window)
    return tuple(found)


def verdicts(cron: str, sigma: float, seed: int) -> Counter[str]:
    """How often each verdict falls when every candidate is the champion of its time with noise of
    this size on each row's log odds, drawn anew for every model and row."""
    return Counter(made.verdict for made in reports(cron, sigma, seed))


def reports(cron: str, sigma: float, seed: int) -> Iterator[Report]:
    """The gate's reports over the year, each going on from the one before."""
    spec, previous = flights_spec(cron), None
    made_of = {_name(0): _name(0)}  # each model's champion of the time when it was made
    for number, at in enumerate(scored(cron), 1):
        candidate = _candidate(number, at)
        champion = previous.state.champion if previous else _name(0)
        made_of |= dict.fromkeys((candidate.digest, candidate.holdout or ""), champion)
        case = EvaluationInputs(
            model="flights", spec=spec, window=at.window, candidate=candidate,
            initial=_name(0), previous=previous, input_digests=InputDigests(None, "", ""),
        )  # fmt: skip

        predict = partial(_predict, at, made_of, sigma, (seed, number))
        tail = np.arange(len(at.label)) >= len(at.label) - candidate.tail_rows
        predictions = {d: predict(d) for d in set(report.scored_roles(case).values())}
        on_tail = predict(candidate.holdout or "")[tail]
        previous = report.build_report(case, EvaluationRows(at.label, at.timestamp, tail), predictions, on_tail)
        yield previous


def _name(model: int) -> str:
    """The digest of a model: 0 is the initial one, which has no noise."""
    return f"{model:064x}"


def _predict(
    at: Scored, made_of: dict[str, str], sigma: float, draw: tuple[int, int], digest: str
) -> Array:
    """The model's probabilities: its own noise on top of that of all it was made of."""
    logit = at.logit.copy()
    while digest != _name(0):
        noise = np.random.default_rng((*draw, int(digest, 16)))
        logit += sigma * noise.standard_normal(len(logit))
        digest = made_of[digest]
    probability: Array = 1 / (1 + np.exp(-logit))
    return probability


def _candidate(number: int, at: Scored) -> Candidate:
    return Candidate(
        model="flights", lineage="null", window=at.window.key, kind="continue", batch="",
        parent=_name(2 * (number - 1)), digest=_name(2 * number), num_iterations=0, tree_digest="",
        holdout=_name(2 * number + 1), tail_rows=learner.tail_rows(len(at.label)),
        since_retrain=0, sample=Sample(FileRef("", "", 0)), seed=0, libraries={},
    )  # fmt: skip
