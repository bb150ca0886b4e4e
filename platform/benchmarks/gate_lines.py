"""Lines of candidates taken to the gate: noise about the champion, and harmful learners."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import polars as pl
from flights_year import Array, Day
from harness import say

from tidemill.core import canonical, learner, report
from tidemill.core.bundle import Model
from tidemill.core.records import Candidate, FileRef, Sample
from tidemill.core.report import EvaluationInputs, InputDigests, Report, EvaluationRows
from tidemill.core.sections import BoostingSpec
from tidemill.core.spec import ModelSpec

Step = Callable[[ModelSpec, pl.DataFrame, Model, int], bytes]
"""A learner: the bundle of what it makes of these rows and the candidate before, in a window of
this number."""


class Line(Protocol):
    """Candidates by digest, made window by window."""

    def learn(self, day: Day, champion: str) -> tuple[str, str]:
        """The digests of the window's candidate and of its holdout fit."""
        ...

    def predict(self, digest: str, day: Day) -> Array:
        """This model's probabilities of all rows of a window."""
        ...

    def keep(self, digests: set[str]) -> None:
        """No model but these will be asked for again."""
        ...


def through_gate(spec: ModelSpec, initial: str, days: Iterable[Day], line: Line) -> list[Report]:
    """The gate's reports on a line, each going on from the one before."""
    made: list[Report] = []
    previous: Report | None = None
    parent = initial
    for day in days:
        champion = previous.state.champion if previous else initial
        digest, holdout = line.learn(day, champion)
        candidate = _candidate(day, parent, digest, holdout)
        case = EvaluationInputs("flights", spec, day.window, candidate, initial, previous, InputDigests(None, "", ""))
        predictions = {d: line.predict(d, day) for d in set(report.scored_roles(case).values())}
        n = len(day.label)
        tail = np.arange(n) >= n - candidate.tail_rows
        rows = EvaluationRows(
            day.label,
            day.rows["_timestamp"].to_numpy(),
            tail,
            {name: day.rows[name] for name in spec.gate.slices},
        )
        on_tail = line.predict(holdout, day)[tail]
        previous = report.build_report(case, rows, predictions, on_tail)
        made.append(previous)
        if day.number % 100 == 99:
            say(f"{day.window.key}: {type(line).__name__} has come through the gate")
        parent = digest
        line.keep({initial, digest, previous.state.champion, previous.state.baseline})
    return made


def _candidate(day: Day, parent: str, digest: str, holdout: str) -> Candidate:
    return Candidate(
        model="flights", lineage="", window=day.window.key, kind="continue", batch="", parent=parent,
        digest=digest, num_iterations=0, tree_digest="", holdout=holdout,
        tail_rows=learner.tail_rows(len(day.label)), since_retrain=0,
        sample=Sample(FileRef("", "", 0)), seed=0, libraries={},
    )  # fmt: skip


@dataclass
class Noise:
    """Each candidate is the champion of its time, with noise on every row's log odds, drawn anew
    for every model and row: it knows nothing that the champion does not."""

    initial: Model
    sigma: float
    seed: int
    made_of: dict[str, str] = field(default_factory=dict)
    known: tuple[int, Array] = (-1, np.empty(0))

    def learn(self, day: Day, champion: str) -> tuple[str, str]:
        twins = f"{2 * day.number + 2:064x}", f"{2 * day.number + 3:064x}"
        self.made_of |= dict.fromkeys(twins, champion)
        return twins

    def predict(self, digest: str, day: Day) -> Array:
        logit = self._initially(day).copy()
        while digest != self.initial.digest:
            dice = np.random.default_rng((self.seed, day.number, int(digest, 16)))
            logit += self.sigma * dice.standard_normal(len(logit))
            digest = self.made_of[digest]
        probability: Array = 1 / (1 + np.exp(-logit))
        return probability

    def keep(self, digests: set[str]) -> None:
        """The names weigh nothing."""

    def _initially(self, day: Day) -> Array:
        """The initial model's log odds of the day's rows, worked out once."""
        if self.known[0] != day.number:
            p = self.initial.predict(day.rows)
            self.known = day.number, np.log(p / (1 - p))
        return self.known[1]


@dataclass
class Learned:
    """Candidates that a learner makes, each from the one before, with their holdout fits."""

    spec: ModelSpec
    initial: Model
    step: Step
    models: dict[str, Model] = field(default_factory=dict)
    newest: Model | None = None

    def learn(self, day: Day, champion: str) -> tuple[str, str]:
        parent = self.newest or self.initial
        parts = [day.rows, learner.without_holdout(day.rows)]
        made = [
            self._load(self.step(self.spec, day.rows if part is None else part, parent, day.number))
            for part in parts
        ]
        self.newest = made[0]
        return made[0].digest, made[1].digest

    def predict(self, digest: str, day: Day) -> Array:
        model = self.initial if digest == self.initial.digest else self.models[digest]
        return model.predict(day.rows)

    def keep(self, digests: set[str]) -> None:
        self.models = {d: model for d, model in self.models.items() if d in digests}

    def _load(self, bundle: bytes) -> Model:
        model = Model.load(bundle, canonical.digest(bundle), None)
        self.models[model.digest] = model
        return model


def hasty(spec: ModelSpec, rows: pl.DataFrame, parent: Model, number: int) -> bytes:
    """Naive continuing: twenty trees at .1 on each day, without bound."""
    trees = BoostingSpec(num_iterations=20, learning_rate=0.1, num_leaves=15, min_data_in_leaf=50)
    return _fit(_with(spec, trees, continue_=True), rows, parent, number, continue_=True)


def forgetful(spec: ModelSpec, rows: pl.DataFrame, parent: Model, number: int) -> bytes:
    """From scratch on each day alone, with leaves small enough for a day."""
    trees = BoostingSpec(num_iterations=100, learning_rate=0.1, num_leaves=15, min_data_in_leaf=20)
    return _fit(_with(spec, trees, continue_=False), rows, parent, number, continue_=False)


def misled(spec: ModelSpec, rows: pl.DataFrame, parent: Model, number: int) -> bytes:
    """The model's own step to continue, on labels permuted among the day's rows; every thirtieth
    day from scratch on such a day, or its trees would grow without bound."""
    order = np.random.default_rng(number).permutation(rows.height)
    mixed = rows.with_columns(rows[spec.label].gather(order).alias(spec.label))
    return _fit(spec, mixed, parent, number, continue_=number % 30 != 0)


def _with(spec: ModelSpec, trees: BoostingSpec, continue_: bool) -> ModelSpec:
    name = "continue_" if continue_ else "retrain"
    return spec.model_copy(update={"learner": spec.learner.model_copy(update={name: trees})})


def _fit(
    spec: ModelSpec, rows: pl.DataFrame, parent: Model, number: int, *, continue_: bool
) -> bytes:
    return learner.fit(
        spec, rows, parent=parent, continue_=continue_, golden=rows.head(50), window=None,
        seed=number, num_threads=1,
    )  # fmt: skip
