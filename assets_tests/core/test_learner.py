"""Learning is a pure function: equal rows, parent and seed give equal trees."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidemill.core import canonical, learner
from tidemill.core.bundle import Model
from tidemill.core.errors import SpecInvalid
from tidemill.core.features import FeatureFunction
from tidemill.core.spec import ModelSpec
from tidemill.core.spec_sections import LearnerSpec

LEARNER = {
    "continue": {"num_iterations": 5, "learning_rate": 0.05, "min_data_in_leaf": 20},
    "retrain": {"num_iterations": 20, "learning_rate": 0.1, "min_data_in_leaf": 20},
}


def spec(**overrides: Any) -> ModelSpec:
    return ModelSpec.create(
        "m",
        {
            "topic": "t",
            "fields": {"place": "category", "size": "number", "wet": "boolean"},
            "label": "late",
            "windows": {"start": "2013-02-01"},
            "learner": LEARNER,
        }
        | overrides,
    )


def rows(count: int, seed: int = 0, labels: str = "binary") -> pl.DataFrame:
    """Rows whose label depends on their fields; 5 % of the values are null."""
    rng = np.random.default_rng(seed)
    place, size = rng.integers(0, 6, count), rng.normal(size=count)
    score = size + (place == 3) + rng.normal(size=count)
    label = score > 0.5 if labels == "binary" else np.exp(score)
    label = np.digitize(score, [0, 1]) if labels == "multiclass" else label
    frame = pl.DataFrame(
        {
            "_partition": pl.Series(np.arange(count) % 4, dtype=pl.Int32),
            "_offset": np.arange(count),
            "_timestamp": np.arange(count) * 90_000,
            "place": [f"p{p}" for p in place],
            "size": size,
            "wet": place % 2 == 0,
            "late": label.astype(np.float64),
        }
    )
    nulls = [
        pl.when(pl.Series(rng.random(count) >= 0.05)).then(pl.col(name)).alias(name)
        for name in ("place", "size", "wet")
    ]
    return frame.with_columns(nulls)


def fit(frame: pl.DataFrame, model: ModelSpec | None = None, **overrides: Any) -> bytes:
    defaults: dict[str, Any] = {
        "parent": None,
        "continue_": False,
        "golden": learner.sort_canonical(frame),
        "window": "2013-02-01",
        "seed": 1,
        "num_threads": 1,
    }
    return learner.fit(model or spec(), frame, **(defaults | overrides))


def load(bundle: bytes, function: FeatureFunction | None = None) -> Model:
    return Model.load(bundle, canonical.digest(bundle), function)


def test_the_order_of_rows_the_threads_and_a_neighbouring_fit_change_no_tree() -> None:
    first, second = rows(1_500), rows(400, seed=2)
    parent = load(fit(first))
    expected = fit(second, parent=parent, continue_=True)
    shuffled = second.sample(fraction=1.0, shuffle=True, seed=3)
    golden = learner.sort_canonical(second)
    assert fit(shuffled, parent=parent, continue_=True, golden=golden) == expected
    assert fit(second, parent=parent, continue_=True, num_threads=2) == expected
    with ThreadPoolExecutor(2) as pool:
        both = list(pool.map(lambda _: fit(second, parent=parent, continue_=True), range(2)))
    assert both == [expected, expected]
    assert fit(second, parent=parent, continue_=True, seed=2) != expected


def test_continuing_keeps_the_parents_trees_and_adds_its_own() -> None:
    parent = load(fit(rows(1_500)))
    child = load(fit(rows(400, seed=2), parent=parent, continue_=True))
    assert (parent.num_iterations, child.num_iterations) == (20, 25)
    trees = [text.split("\n\n")[0] for text in parent.text.split("\nTree=")[1:21]]
    for tree in trees:
        assert tree in child.text
    assert child.tree_digest != parent.tree_digest


def test_a_model_read_back_continues_as_the_one_in_memory() -> None:
    import lightgbm

    parent = load(fit(rows(1_500)))
    reloaded = lightgbm.Booster(model_str=parent.booster.model_to_string())
    probe = np.random.default_rng(0).normal(size=(200, 3))
    assert np.array_equal(reloaded.predict(probe), parent.booster.predict(probe))
    assert "\nparameters:" not in parent.text


def test_continuing_learns_new_categories_after_the_known_ones() -> None:
    parent = load(fit(rows(1_500)))
    batch = rows(400, seed=2).with_columns(place=pl.lit("a new place"))
    child = load(fit(batch, parent=parent, continue_=True))
    existing = parent.vocabulary.values["place"]
    assert child.vocabulary.values["place"] == (*existing, "a new place")
    retrained = load(fit(batch, parent=parent, continue_=False))
    assert retrained.vocabulary.values["place"] == ("a new place",)


@pytest.mark.parametrize("count", [1, 2, 3, 30, 39, 99, 100])
def test_few_rows_are_no_error(count: int) -> None:
    parent = load(fit(rows(1_500)))
    child = load(fit(rows(count, seed=5), parent=parent, continue_=True))
    assert np.isfinite(child.predict(rows(50))).all()
    assert np.isfinite(load(fit(rows(count, seed=5))).predict(rows(50))).all()


@pytest.mark.parametrize("label", [0.0, 1.0])
def test_one_class_is_no_error(label: float) -> None:
    parent = load(fit(rows(1_500)))
    batch = rows(400, seed=2).with_columns(late=pl.lit(label))
    child = load(fit(batch, parent=parent, continue_=True))
    assert np.isfinite(child.predict(rows(50))).all()


def test_columns_without_any_value_are_no_error() -> None:
    batch = rows(400).with_columns(
        place=pl.lit(None, pl.String), size=pl.lit(None, pl.Float64), wet=pl.lit(None, pl.Boolean)
    )
    assert np.isfinite(load(fit(batch)).predict(batch)).all()


OBJECTIVES = [
    "binary", "multiclass", "regression", "regression_l1", "huber", "quantile",
    "poisson", "gamma", "tweedie",
]  # fmt: skip


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_every_objective_is_learned_continued_and_answered(objective: str) -> None:
    classes = ["a", "b", "c"] if objective == "multiclass" else []
    model = spec(objective=objective, classes=classes)
    parent = load(fit(rows(1_000, labels=objective), model))
    child = load(fit(rows(300, seed=2, labels=objective), model, parent=parent, continue_=True))
    predictions = child.predict(rows(40))
    assert predictions.shape == ((40, 3) if classes else (40,))
    assert child.predict(rows(40).clear()).shape == ((0, 3) if classes else (0,))
    assert child.num_iterations == parent.num_iterations + 5
    child.validate()


@pytest.mark.parametrize("objective", ["poisson", "tweedie"])
def test_counts_that_are_all_zero_leave_the_parent_as_it_is(objective: str) -> None:
    model = spec(objective=objective)
    parent = load(fit(rows(1_000, labels=objective), model))
    zeros = rows(300).with_columns(late=pl.lit(0.0))
    for continue_ in (True, False):
        child = load(fit(zeros, model, parent=parent, continue_=continue_))
        assert child.tree_digest == parent.tree_digest
    with pytest.raises(SpecInvalid, match="are 0"):
        fit(zeros, model)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"lamda_l2": 1.0}, "Did you mean `lambda_l2`"),
        ({"n_estimators": 5}, "`n_estimators` is set by tidemill"),
        ({"bagging_fraction": 2.0}, "LightGBM cannot train"),
    ],
)
def test_a_parameter_that_lightgbm_would_ignore_or_refuse_is_named(
    parameters: dict[str, float], message: str
) -> None:
    with pytest.raises(SpecInvalid, match=message):
        fit(rows(300), spec(learner=LEARNER | {"parameters": parameters}))


def test_a_model_with_a_feature_function_is_not_learned_without_it() -> None:
    with pytest.raises(SpecInvalid, match="that of the model is shop:features"):
        fit(rows(300), spec(features="shop:features"))


@given(st.integers(0, 2_000))
def test_the_tail_is_the_last_fifth_of_the_ordered_rows(count: int) -> None:
    ordered = pl.DataFrame({"_timestamp": range(count)})
    head, tail = learner.without_holdout(ordered), learner.tail_rows(count)
    if count < 150:
        assert (head, tail) == (None, 0)
    else:
        assert head is not None
        assert head.equals(ordered.head(count - tail))
        assert count <= 5 * tail < count + 5


def test_rows_are_ordered_by_time_then_partition_then_offset() -> None:
    positions = [(5, 1, 2), (5, 1, 1), (5, 0, 9), (4, 3, 3)]
    frame = pl.DataFrame(positions, schema=["_timestamp", "_partition", "_offset"], orient="row")
    assert learner.sort_canonical(frame).rows() == sorted(positions)


def test_every_seventh_window_and_a_full_budget_are_retrainings() -> None:
    settings = LearnerSpec()
    steps, since_retrain, num_iterations = [], 0, 200
    for _ in range(15):
        step = learner.choose_update_kind(since_retrain, num_iterations, settings)
        since_retrain, num_iterations = (
            (0, 200) if step == "retrain" else (since_retrain + 1, num_iterations + 10)
        )
        steps.append(step)
    assert [window for window, step in enumerate(steps, 1) if step == "retrain"] == [7, 14]
    assert learner.choose_update_kind(0, 490, settings) == "continue"
    assert learner.choose_update_kind(0, 491, settings) == "retrain"
    assert learner.choose_update_kind(6, 500, settings, rows=0) == "carry"
