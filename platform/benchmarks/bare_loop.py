"""The LightGBM work of windows that were worked through, and nothing else of them."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial

import lightgbm
import numpy as np
import polars as pl
from flights_year import Array

from tidemill.core import learner
from tidemill.core.bundle import load_booster
from tidemill.core.features import Vocabulary, feature_columns, extend_vocabulary, matrix
from tidemill.core.records import Candidate
from tidemill.core.scoring import row_losses
from tidemill.core.tables import from_parquet
from tidemill.core.windows import Window
from tidemill.cycle.extract import require_batch, load_rows
from tidemill.cycle.mill import ModelContext
from tidemill.cycle.update import require_candidate


@dataclass(frozen=True)
class Work:
    """One window: its rows, what candidate and holdout fit learn from, who is scored on it."""

    candidate: Candidate
    rows: pl.DataFrame
    parts: tuple[pl.DataFrame, ...]
    scored: frozenset[str]

    @property
    def continues(self) -> bool:
        return self.candidate.kind == "continue"


@dataclass
class Loop:
    """A loop over windows as one would write it who wants nothing but the models.

    Rows lie decoded in memory, and boosters stay there; one vocabulary serves all of them.
    """

    mill: ModelContext
    boosters: dict[str, lightgbm.Booster] = field(default_factory=dict)
    vocabulary: Vocabulary = field(default_factory=Vocabulary)

    def prepared(self, window: Window) -> Work:
        """What the store has of a window; the loop does not pay for it."""
        mill, archive = self.mill, self.mill.repository
        candidate = require_candidate(mill, window)
        report = archive.report(window.key)
        assert report is not None
        rows = learner.sort_canonical(load_rows(mill, require_batch(mill, window)))
        head = learner.without_holdout(rows)
        assert head is not None
        parts = rows, head
        if candidate.kind == "retrain":
            sample = from_parquet(archive.file(candidate.sample.snapshot))
            tail = rows.tail(candidate.tail_rows)
            parts = sample, sample.join(tail, on=["_partition", "_offset"], how="anti")
        if not self.boosters:
            self.vocabulary = mill.load(candidate.parent).vocabulary
        own = {candidate.digest, candidate.holdout}
        scored = frozenset(role.digest for role in report.models.values()) - own
        for digest in scored - self.boosters.keys():
            self.boosters[digest] = load_booster(mill.load(digest).text)
        for part in (parts[0], rows):
            fields = part.select(list(mill.spec.fields))
            self.vocabulary = extend_vocabulary(self.vocabulary, fields, feature_columns(fields))
        return Work(candidate, rows, parts, scored)

    def turn(self, work: Work) -> None:
        """Learn both models, at the same time as `update` does, and score all on the rows."""
        with ThreadPoolExecutor(2) as pool:
            made = list(pool.map(partial(self._fit, work), work.parts))
        assert made[0].current_iteration() == work.candidate.num_iterations
        given, label = self._given(work.rows)
        for digest in work.scored:
            self._loss(self.boosters[digest], given, label)
        tail = work.candidate.tail_rows
        self._loss(made[1], given[-tail:], label[-tail:])
        self.boosters[work.candidate.digest] = made[0]

    def _fit(self, work: Work, part: pl.DataFrame) -> lightgbm.Booster:
        given, label = self._given(part)
        settings = learner.lightgbm_parameters(
            self.mill.spec, work.continues, len(label), work.candidate.seed, 1
        )
        columns = feature_columns(part.select(list(self.mill.spec.fields)))
        categories = [at for at, column in enumerate(columns) if column.kind == "category"]
        return lightgbm.train(
            settings,
            lightgbm.Dataset(given, label, categorical_feature=categories),
            num_boost_round=settings["num_iterations"],
            init_model=self.boosters[work.candidate.parent] if work.continues else None,
        )

    def _given(self, rows: pl.DataFrame) -> tuple[Array, Array]:
        fields = rows.select(list(self.mill.spec.fields))
        given = matrix(fields, feature_columns(fields), self.vocabulary)
        return given, rows[self.mill.spec.label].cast(pl.Float64).to_numpy()

    def _loss(self, booster: lightgbm.Booster, given: Array, label: Array) -> float:
        predicted = np.asarray(booster.predict(given, num_threads=1))
        return float(row_losses("binary", label, predicted, {}).mean())
