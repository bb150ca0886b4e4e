"""Small models trained in memory, for tests that need bundles but no windows."""

from typing import Any

import numpy as np
import polars as pl

from tidemill.core import learner
from tidemill.core.features import FeatureFunction
from tidemill.core.spec import ModelSpec

_RETRAIN = {"num_iterations": 20, "learning_rate": 0.1, "min_data_in_leaf": 20}
FIELDS = {"size": "number", "place": "category", "open": "boolean?"}


def spec(**changes: Any) -> ModelSpec:
    """A small binary model of three fields; `place` is null in one row of seven."""
    attributes = {
        "topic": "t",
        "fields": FIELDS,
        "label": "late",
        "windows": {"start": "2026-01-01"},
        "learner": {"retrain": _RETRAIN},
    }
    return ModelSpec.create("m", attributes | changes)


def rows(count: int = 600) -> pl.DataFrame:
    """A batch for such models; `late` is a binary label, `kind` the index of one of 3 classes."""
    rng = np.random.default_rng(0)
    size = rng.normal(size=count)
    return pl.DataFrame(
        {
            "_partition": pl.Series([0] * count, dtype=pl.Int32),
            "_offset": range(count),
            "_timestamp": range(count),
            "size": [None if index % 11 == 0 else value for index, value in enumerate(size)],
            "place": [None if index % 7 == 6 else f"p{index % 7}" for index in range(count)],
            "open": [None if index % 5 == 0 else index % 2 == 0 for index in range(count)],
            "late": (size + rng.normal(size=count) > 0).astype(np.float64),
            "kind": np.floor(rng.uniform(0, 3, count)),
        }
    )


def bundle(model_spec: ModelSpec, seed: int = 1, function: FeatureFunction | None = None) -> bytes:
    """A bundle trained on `rows()`; another seed gives another model."""
    training_rows = rows()
    return learner.fit(
        model_spec,
        training_rows,
        parent=None,
        continue_=False,
        golden=training_rows,
        window=None,
        seed=seed,
        num_threads=1,
        function=function,
    )
