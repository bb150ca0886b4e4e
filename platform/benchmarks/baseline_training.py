"""Only the LightGBM work of windows that have been processed."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial

import lightgbm
import numpy as np
import polars as pl
from flights_year import Array

from tidemill.core import learner
from tidemill.core.features import Vocabulary, extend_vocabulary, feature_columns, matrix
from tidemill.core.lightgbm_import import load_booster
from tidemill.core.parquet import from_parquet
from tidemill.core.records import Candidate
from tidemill.core.scoring import row_losses
from tidemill.core.windows import Window
from tidemill.cycle.context import ModelContext


@dataclass(frozen=True)
class TrainingInputs:
    """One window: its rows, the training sets of both fits, the models scored on it."""

    candidate: Candidate
    rows: pl.DataFrame
    training_sets: tuple[pl.DataFrame, ...]
    scored_digests: frozenset[str]

    @property
    def continues(self) -> bool:
        return self.candidate.kind == "continue"


@dataclass
class BaselineLoop:
    """A loop over windows that does nothing but learn models.

    Rows are decoded in memory, boosters are kept in memory, and all share one vocabulary.
    """

    ctx: ModelContext
    boosters: dict[str, lightgbm.Booster] = field(default_factory=dict)
    vocabulary: Vocabulary = field(default_factory=Vocabulary)

    def prepare(self, window: Window) -> TrainingInputs:
        """Load a window from the store, which is not part of the measured loop."""
        ctx, repository = self.ctx, self.ctx.repository
        candidate = ctx.records.require_candidate(window)
        report = repository.report(window.key)
        assert report is not None
        rows = learner.sort_canonical(ctx.load_rows(ctx.records.require_batch(window)))
        without_tail = learner.without_holdout(rows)
        assert without_tail is not None
        training_sets = rows, without_tail
        if candidate.kind == "retrain":
            sample = from_parquet(repository.file(candidate.sample.snapshot))
            tail = rows.tail(candidate.tail_rows)
            training_sets = sample, sample.join(tail, on=["_partition", "_offset"], how="anti")
        if not self.boosters:
            self.vocabulary = ctx.load(candidate.parent).vocabulary
        own_digests = {candidate.digest, candidate.holdout}
        scored_digests = frozenset(role.digest for role in report.models.values()) - own_digests
        for digest in scored_digests - self.boosters.keys():
            self.boosters[digest] = load_booster(ctx.load(digest).text)
        for part in (training_sets[0], rows):
            fields = part.select(list(ctx.spec.fields))
            self.vocabulary = extend_vocabulary(self.vocabulary, fields, feature_columns(fields))
        return TrainingInputs(candidate, rows, training_sets, scored_digests)

    def train_and_score(self, inputs: TrainingInputs) -> None:
        """Learn both models concurrently, as `update` does, and score all models on the rows."""
        with ThreadPoolExecutor(2) as pool:
            fitted = list(pool.map(partial(self._fit, inputs), inputs.training_sets))
        assert fitted[0].current_iteration() == inputs.candidate.num_iterations
        features, label = self._features_and_label(inputs.rows)
        for digest in inputs.scored_digests:
            self._loss(self.boosters[digest], features, label)
        tail = inputs.candidate.tail_rows
        self._loss(fitted[1], features[-tail:], label[-tail:])
        self.boosters[inputs.candidate.digest] = fitted[0]

    def _fit(self, inputs: TrainingInputs, rows: pl.DataFrame) -> lightgbm.Booster:
        features, label = self._features_and_label(rows)
        params = learner.lightgbm_parameters(
            self.ctx.spec, inputs.continues, len(label), inputs.candidate.seed, 1
        )
        columns = feature_columns(rows.select(list(self.ctx.spec.fields)))
        categories = [index for index, column in enumerate(columns) if column.kind == "category"]
        return lightgbm.train(
            params,
            lightgbm.Dataset(features, label, categorical_feature=categories),
            num_boost_round=params["num_iterations"],
            init_model=self.boosters[inputs.candidate.parent] if inputs.continues else None,
        )

    def _features_and_label(self, rows: pl.DataFrame) -> tuple[Array, Array]:
        fields = rows.select(list(self.ctx.spec.fields))
        features = matrix(fields, feature_columns(fields), self.vocabulary)
        return features, rows[self.ctx.spec.label].cast(pl.Float64).to_numpy()

    def _loss(self, booster: lightgbm.Booster, features: Array, label: Array) -> float:
        predicted = np.asarray(booster.predict(features, num_threads=1))
        return float(row_losses("binary", label, predicted, {}).mean())
