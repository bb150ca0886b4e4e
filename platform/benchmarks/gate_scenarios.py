"""Sequences of candidates for the gate: noise around the champion, and harmful learners."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import polars as pl
from flights_year import Array, Day
from harness import log

from tidemill.core import canonical, learner, report
from tidemill.core.bundle import Model
from tidemill.core.evaluation import EvaluationInputs, EvaluationRows, scored_roles
from tidemill.core.records import Candidate, FileRef, Sample
from tidemill.core.report_records import InputDigests, Report
from tidemill.core.spec import ModelSpec
from tidemill.core.spec_sections import BoostingSpec

FitStep = Callable[[ModelSpec, pl.DataFrame, Model, int], bytes]
"""A learner: returns a bundle, given the rows, the previous candidate and the window's number."""


class Scenario(Protocol):
    """Candidates by digest, learned window by window."""

    def learn(self, day: Day, champion: str) -> tuple[str, str]:
        """The digests of the window's candidate and of its holdout fit."""
        ...

    def predict(self, digest: str, day: Day) -> Array:
        """The probabilities of this model for all rows of a window."""
        ...

    def retain(self, digests: set[str]) -> None:
        """Discard all models except these, which are the only ones needed later."""
        ...


def run_through_gate(
    spec: ModelSpec, initial: str, days: Iterable[Day], scenario: Scenario
) -> list[Report]:
    """The gate's reports on a scenario, each continuing from the previous one."""
    reports: list[Report] = []
    previous: Report | None = None
    parent = initial
    for day in days:
        champion = previous.state.champion if previous else initial
        digest, holdout = scenario.learn(day, champion)
        candidate = _candidate(day, parent, digest, holdout)
        inputs = EvaluationInputs(
            "flights", spec, day.window, candidate, initial, previous, InputDigests(None, "", "")
        )
        predictions = {d: scenario.predict(d, day) for d in set(scored_roles(inputs).values())}
        row_count = len(day.label)
        tail = np.arange(row_count) >= row_count - candidate.tail_rows
        rows = EvaluationRows(
            day.label,
            day.rows["_timestamp"].to_numpy(),
            tail,
            {name: day.rows[name] for name in spec.gate.slices},
        )
        on_tail = scenario.predict(holdout, day)[tail]
        previous = report.build_report(inputs, rows, predictions, on_tail)
        reports.append(previous)
        if day.number % 100 == 99:
            log(f"{day.window.key}: the gate has judged {type(scenario).__name__}")
        parent = digest
        scenario.retain({initial, digest, previous.state.champion, previous.state.baseline})
    return reports


def _candidate(day: Day, parent: str, digest: str, holdout: str) -> Candidate:
    return Candidate(
        model="flights", lineage="", window=day.window.key, kind="continue", batch="",
        parent=parent, digest=digest, num_iterations=0, tree_digest="", holdout=holdout,
        tail_rows=learner.tail_rows(len(day.label)), since_retrain=0,
        sample=Sample(FileRef("", "", 0)), seed=0, libraries={},
    )  # fmt: skip


@dataclass
class NoiseScenario:
    """Each candidate is the current champion with noise on the log odds of every row.

    The noise is independent per model and row, so no candidate is better than its champion.
    """

    initial: Model
    sigma: float
    seed: int
    parent_of: dict[str, str] = field(default_factory=dict)
    cached_logits: tuple[int, Array] = (-1, np.empty(0))

    def learn(self, day: Day, champion: str) -> tuple[str, str]:
        digests = f"{2 * day.number + 2:064x}", f"{2 * day.number + 3:064x}"
        self.parent_of |= dict.fromkeys(digests, champion)
        return digests

    def predict(self, digest: str, day: Day) -> Array:
        logit = self._initial_logits(day).copy()
        while digest != self.initial.digest:
            rng = np.random.default_rng((self.seed, day.number, int(digest, 16)))
            logit += self.sigma * rng.standard_normal(len(logit))
            digest = self.parent_of[digest]
        probability: Array = 1 / (1 + np.exp(-logit))
        return probability

    def retain(self, digests: set[str]) -> None:
        """Nothing to discard: candidates are only names."""

    def _initial_logits(self, day: Day) -> Array:
        """The initial model's log odds for the day's rows, cached for one day."""
        if self.cached_logits[0] != day.number:
            p = self.initial.predict(day.rows)
            self.cached_logits = day.number, np.log(p / (1 - p))
        return self.cached_logits[1]


@dataclass
class LearnerScenario:
    """The candidates of a learner, each based on the previous one, with their holdout fits."""

    spec: ModelSpec
    initial: Model
    fit_step: FitStep
    models: dict[str, Model] = field(default_factory=dict)
    newest: Model | None = None

    def learn(self, day: Day, champion: str) -> tuple[str, str]:
        parent = self.newest or self.initial
        training_sets = [day.rows, learner.without_holdout(day.rows)]
        fitted = [
            self._load(
                self.fit_step(self.spec, day.rows if rows is None else rows, parent, day.number)
            )
            for rows in training_sets
        ]
        self.newest = fitted[0]
        return fitted[0].digest, fitted[1].digest

    def predict(self, digest: str, day: Day) -> Array:
        model = self.initial if digest == self.initial.digest else self.models[digest]
        return model.predict(day.rows)

    def retain(self, digests: set[str]) -> None:
        self.models = {d: model for d, model in self.models.items() if d in digests}

    def _load(self, bundle: bytes) -> Model:
        model = Model.load(bundle, canonical.digest(bundle), None)
        self.models[model.digest] = model
        return model


def high_learning_rate(spec: ModelSpec, rows: pl.DataFrame, parent: Model, number: int) -> bytes:
    """Naive continuing: twenty more trees at .1 every day, without a limit."""
    trees = BoostingSpec(num_iterations=20, learning_rate=0.1, num_leaves=15, min_data_in_leaf=50)
    return _fit(_with_trees(spec, trees, continue_=True), rows, parent, number, continue_=True)


def no_replay(spec: ModelSpec, rows: pl.DataFrame, parent: Model, number: int) -> bytes:
    """Retraining from scratch on only the day's rows, with leaves small enough for a day."""
    trees = BoostingSpec(num_iterations=100, learning_rate=0.1, num_leaves=15, min_data_in_leaf=20)
    return _fit(_with_trees(spec, trees, continue_=False), rows, parent, number, continue_=False)


def permuted_labels(spec: ModelSpec, rows: pl.DataFrame, parent: Model, number: int) -> bytes:
    """The model's own continue step on permuted labels of the day.

    It starts from scratch every thirtieth day, so that the number of trees stays bounded.
    """
    order = np.random.default_rng(number).permutation(rows.height)
    shuffled = rows.with_columns(rows[spec.label].gather(order).alias(spec.label))
    return _fit(spec, shuffled, parent, number, continue_=number % 30 != 0)


def _with_trees(spec: ModelSpec, trees: BoostingSpec, continue_: bool) -> ModelSpec:
    name = "continue_" if continue_ else "retrain"
    return spec.model_copy(update={"learner": spec.learner.model_copy(update={name: trees})})


def _fit(
    spec: ModelSpec, rows: pl.DataFrame, parent: Model, number: int, *, continue_: bool
) -> bytes:
    return learner.fit(
        spec, rows, parent=parent, continue_=continue_, golden=rows.head(50), window=None,
        seed=number, num_threads=1,
    )  # fmt: skip
