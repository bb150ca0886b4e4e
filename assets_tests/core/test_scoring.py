"""Scoring: losses against LightGBM's own metrics and naive formulas, and numbers that are None."""

import math
from collections.abc import Callable

import lightgbm as lgb
import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidemill.core import scoring
from tidemill.core.errors import ScoreInvalid
from tidemill.core.scoring import Array
from tidemill.core.spec import Objective
from tidemill.core.spec_sections import Scalar

COUNTS = st.lists(
    st.tuples(st.floats(0, 1e3), st.floats(1e-3, 1e3), st.floats(1e-3, 1e3)),
    min_size=1,
    max_size=20,
)


def synthetic_data(objective: Objective, n: int = 400) -> tuple[Array, Array]:
    """Features and labels that any learner can learn something from."""
    draw = np.random.default_rng(7)
    x = draw.normal(size=(n, 3))
    signal = x[:, 0] + draw.normal(size=n)
    labels: dict[str, Array] = {
        "binary": (signal > 0).astype(float),
        "multiclass": np.digitize(signal, [-0.5, 0.5]).astype(float),
        "poisson": draw.poisson(np.exp(signal / 2)).astype(float),
        "gamma": np.exp(signal),
        "tweedie": np.maximum(signal, 0),
    }
    return x, labels.get(objective, signal * 3)


@pytest.mark.parametrize(
    ("objective", "metric", "parameters"),
    [
        ("binary", "binary_logloss", {}),
        ("multiclass", "multi_logloss", {"num_class": 3}),
        ("regression", "l2", {}),
        ("regression_l1", "l1", {}),
        ("huber", "huber", {}),
        ("huber", "huber", {"alpha": 2.5}),
        ("quantile", "quantile", {}),
        ("quantile", "quantile", {"alpha": 0.2}),
    ],
)
def test_the_mean_loss_is_the_metric_of_lightgbm(
    objective: Objective, metric: str, parameters: dict[str, Scalar]
) -> None:
    x, y = synthetic_data(objective)
    evaluations: dict[str, dict[str, list[float]]] = {}
    data = lgb.Dataset(x, y, free_raw_data=False)
    settings = {"objective": objective, "metric": metric, "verbosity": -1, "num_threads": 1}
    booster = lgb.train(
        settings | parameters,
        data,
        8,
        valid_sets=[data],
        callbacks=[lgb.record_evaluation(evaluations)],
    )
    ours = scoring.row_losses(objective, y, np.asarray(booster.predict(x)), parameters)
    assert ours.shape == (len(y),)
    assert ours.mean() == pytest.approx(evaluations["training"][metric][-1], rel=1e-5)


def poisson(y: float, mean: float) -> float:
    return mean - y * math.log(mean)


def gamma(y: float, mean: float) -> float:
    return y / mean + math.log(mean)


def tweedie(y: float, mean: float) -> float:
    return -y * mean**-0.3 / -0.3 + mean**0.7 / 0.7


@pytest.mark.parametrize(
    ("objective", "likelihood"), [("poisson", poisson), ("gamma", gamma), ("tweedie", tweedie)]
)
@given(rows=COUNTS)
def test_deviances_rank_models_as_twice_the_negative_log_likelihood(
    objective: Objective,
    likelihood: Callable[[float, float], float],
    rows: list[tuple[float, float, float]],
) -> None:
    y, one, other = (np.array(column) for column in zip(*rows, strict=True))
    parameters: dict[str, Scalar] = {"tweedie_variance_power": 1.3}
    gains = scoring.row_losses(objective, y, other, parameters) - scoring.row_losses(
        objective, y, one, parameters
    )
    expected = [2 * (likelihood(c, b) - likelihood(c, a)) for c, a, b in rows]
    np.testing.assert_allclose(gains, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("objective", ["poisson", "gamma", "tweedie"])
@given(rows=COUNTS)
def test_a_deviance_is_zero_for_the_right_answer_and_never_below(
    objective: Objective, rows: list[tuple[float, float, float]]
) -> None:
    y, mean, right = (np.array(column) for column in zip(*rows, strict=True))
    assert (scoring.row_losses(objective, y, mean, {}) >= 0).all()
    np.testing.assert_allclose(scoring.row_losses(objective, right, right, {}), 0, atol=1e-9)


def test_a_tweedie_power_of_one_is_poisson() -> None:
    y, mean = np.array([0.0, 1.0, 4.0]), np.array([0.5, 2.0, 3.0])
    power: dict[str, Scalar] = {"tweedie_variance_power": 1}
    np.testing.assert_array_equal(
        scoring.row_losses("tweedie", y, mean, power), scoring.row_losses("poisson", y, mean, {})
    )


def test_a_certain_and_wrong_probability_costs_what_a_millionth_costs() -> None:
    y, sure = np.array([1.0, 0.0, 1.0]), np.array([0.0, 1.0, 1.0])
    wrong, right = -math.log(1e-6), -math.log1p(-1e-6)
    np.testing.assert_allclose(scoring.row_losses("binary", y, sure, {}), [wrong, wrong, right])
    two = np.array([[1.0, 0.0], [0.0, 1.0]])
    result = scoring.row_losses("multiclass", np.array([1.0, 1.0]), two, {})
    np.testing.assert_allclose(result, [wrong, right])


@pytest.mark.parametrize(
    ("objective", "label", "prediction"),
    [
        ("binary", [1.0, 0.0], [0.5, math.nan]),
        ("binary", [1.0, math.nan], [0.5, 0.5]),
        ("binary", [1.0, 2.0], [0.5, 0.5]),
        ("regression", [1.0, 2.0], [0.5, math.inf]),
        ("regression", [1.0, 1e150], [0.5, 0.5]),
        ("poisson", [1.0, -1.0], [0.5, 0.5]),
    ],
)
def test_a_row_without_a_finite_loss_is_named_and_not_averaged_in(
    objective: Objective, label: list[float], prediction: list[float]
) -> None:
    with pytest.raises(ScoreInvalid, match="Row 1 of 2"):
        scoring.row_losses(objective, np.array(label), np.array(prediction), {})


@pytest.mark.parametrize(
    ("objective", "label", "prediction"),
    [
        ("binary", np.ones(3), np.ones(2)),
        ("binary", np.ones(3), np.ones((3, 2))),
        ("multiclass", np.ones(3), np.ones(3)),
        ("multiclass", np.full(3, 2.0), np.ones((3, 2))),
        ("multiclass", np.full(3, -1.0), np.ones((3, 2))),
    ],
)
def test_labels_and_predictions_that_do_not_belong_together_are_refused(
    objective: Objective, label: Array, prediction: Array
) -> None:
    with pytest.raises(ScoreInvalid, match="do not match"):
        scoring.row_losses(objective, label, prediction, {})


@pytest.mark.parametrize("objective", ["binary", "multiclass", "regression"])
def test_no_rows_have_no_losses_and_no_prior(objective: Objective) -> None:
    shape = (0, 3) if objective == "multiclass" else (0,)
    nothing = np.zeros(0)
    assert scoring.row_losses(objective, nothing, np.zeros(shape), {}).shape == (0,)
    assert scoring.constant_prior(objective, nothing, {}) is None
    assert scoring.calibration(objective, nothing, np.zeros(shape)) is None
    assert scoring.losses_by_slice("sky", pl.Series([], dtype=pl.String), {"a": nothing}) == ()


@pytest.mark.parametrize(
    "objective",
    ["binary", "regression", "regression_l1", "huber", "quantile", "poisson", "gamma", "tweedie"],
)
def test_no_constant_does_better_than_the_prior_and_one_does_as_well(objective: Objective) -> None:
    _, y = synthetic_data(objective, 105)
    prior = scoring.constant_prior(objective, y, {})
    constants = np.linspace(y.min() + 1e-3, y.max() - 1e-3, 4001)
    losses = [
        float(scoring.row_losses(objective, y, np.full(len(y), c), {}).mean()) for c in constants
    ]
    assert prior is not None
    assert prior <= min(losses) + 1e-12
    assert prior == pytest.approx(min(losses), rel=1e-3)


def test_the_prior_of_classes_is_their_entropy() -> None:
    y = np.array([0.0] * 5 + [2.0] * 3 + [3.0] * 2)
    entropy = -sum(p * math.log(p) for p in (0.5, 0.3, 0.2))
    assert scoring.constant_prior("multiclass", y, {}) == pytest.approx(entropy)
    one = scoring.constant_prior("multiclass", np.zeros(4), {})
    assert one == pytest.approx(-math.log1p(-1e-6))


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 6)), max_size=40))
def test_auc_is_the_share_of_pairs_in_the_right_order(rows: list[tuple[bool, int]]) -> None:
    ones, zeros = [s for y, s in rows if y], [s for y, s in rows if not y]
    pairs = [(a > b) + 0.5 * (a == b) for a in ones for b in zeros]
    label = np.array([float(y) for y, _ in rows])
    result = scoring.auc(label, np.array([s / 7 for _, s in rows]))
    assert result == (pytest.approx(sum(pairs) / len(pairs)) if pairs else None)


def test_with_one_class_auc_is_none_and_never_a_half() -> None:
    assert scoring.auc(np.ones(50), np.linspace(0, 1, 50)) is None
    assert scoring.auc(np.zeros(50), np.linspace(0, 1, 50)) is None


def test_calibration_holds_every_row_in_one_tenth() -> None:
    y, p = np.array([0.0, 0.0, 1.0, 1.0]), np.array([0.0, 0.05, 0.95, 1.0])
    result = scoring.calibration("binary", y, p)
    assert result is not None
    assert (result.predicted, result.observed, result.bias) == (0.5, 0.5, 0.0)
    assert [(b.n, b.predicted, b.observed) for b in result.bins] == [
        (2, pytest.approx(0.025), 0.0),
        (2, pytest.approx(0.975), 1.0),
    ]


def test_calibration_of_a_regression_is_its_bias_and_classes_have_none() -> None:
    result = scoring.calibration("regression", np.array([1.0, 3.0]), np.array([2.0, 5.0]))
    assert result is not None
    assert (result.bias, result.bins) == (1.5, ())
    assert scoring.calibration("multiclass", np.zeros(2), np.full((2, 2), 0.5)) is None


def test_the_permutation_test_distinguishes_permuted_labels() -> None:
    draw = np.random.default_rng(3)
    p = draw.uniform(0.05, 0.95, 3000)
    y = (draw.random(3000) < p).astype(float)
    clusters = np.arange(3000) // 125
    true = scoring.permutation_test("binary", y, p, clusters, {}, 0)
    assert true.t is not None
    assert true.t > 10
    ts = [
        scoring.permutation_test("binary", draw.permutation(y), p, clusters, {}, seed).t
        for seed in range(40)
    ]
    assert sum(t is not None and t < scoring.PERMUTATION_ALARM_T for t in ts) >= 34
    assert scoring.permutation_test("binary", y, p, clusters, {}, 0) == true
    assert scoring.permutation_test("binary", y, p, clusters, {}, 1) != true


def test_slices_hold_the_twenty_largest_values_and_the_missing_one() -> None:
    values = [f"v{k:02}" for k in range(30) for _ in range(k)] + [None] * 25
    series, loss = pl.Series("sky", values), np.arange(len(values), dtype=float)
    result = scoring.losses_by_slice("sky", series, {"a": loss, "b": 2 * loss})
    expected = [*range(29, 24, -1), 25, *range(24, 10, -1)]
    assert [part.n for part in result] == expected
    assert [part.value for part in result[4:7]] == ["v25", None, "v24"]
    own = [x for x, value in zip(loss, values, strict=True) if value == "v24"]
    mean = sum(own) / len(own)
    assert result[6].losses == {"a": pytest.approx(mean), "b": pytest.approx(2 * mean)}
