"""Scoring: per-row losses of an objective, and the other numbers of a report."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

from tidemill.core.errors import ScoreInvalid
from tidemill.core.loss_differences import Estimate, cluster_differences, estimate
from tidemill.core.spec import Objective
from tidemill.core.spec_sections import Scalar

Array = npt.NDArray[np.float64]
Parameters = Mapping[str, Scalar]

PROBABILITY_CLIP = 1e-6
"""Probabilities are clipped to `[PROBABILITY_CLIP, 1 − PROBABILITY_CLIP]`."""
PERMUTATION_ALARM_T = 1.645
"""A permutation test with a smaller clustered t raises the alarm."""
MAX_SLICES = 20
"""A report shows at most this many values of a category: those with the most rows."""

_MIN_MEAN = 1e-10  # LightGBM's own floor under a predicted mean
_MAX_LOSS = 1e200  # above this, sums and squares of losses may not be finite


@dataclass(frozen=True)
class Bin:
    """Rows whose predicted probability is in one tenth of [0, 1]: their number and two means."""

    n: int
    predicted: float
    observed: float


@dataclass(frozen=True)
class Calibration:
    """Mean prediction and mean label; for `binary` the same for each tenth that has rows."""

    predicted: float
    observed: float
    bins: tuple[Bin, ...] = ()

    @property
    def bias(self) -> float:
        """Mean prediction minus mean label."""
        return self.predicted - self.observed


@dataclass(frozen=True)
class Slice:
    """Rows with one value of a category field (None: missing), and the mean loss of each role."""

    field: str
    value: str | None
    n: int
    losses: dict[str, float]


def row_losses(
    objective: Objective, label: Array, prediction: Array, parameters: Parameters
) -> Array:
    """The loss of each of n rows, at least 0.

    `label` is float64[n] (a class index for `multiclass`, 0 or 1 for `binary`); `prediction` is
    on LightGBM's scale of predictions, float64[n], or float64[n, classes] for `multiclass`.
    For `poisson`, `gamma` and `tweedie` it is the unit deviance: LightGBM's negative log likelihood
    times 2, plus a term of the label that makes the minimum 0. Raises `ScoreInvalid`.
    """
    _check_shapes(objective, label, prediction)
    with np.errstate(all="ignore"):  # values that are not finite are reported below
        loss = _losses(objective, label, prediction, parameters)
    scorable = np.isfinite(label) & (np.abs(loss) < _MAX_LOSS)
    finite = np.isfinite(prediction)
    scorable &= finite if finite.ndim == 1 else finite.all(axis=1)
    if not scorable.all():
        raise ScoreInvalid(
            f"Row {int(np.argmin(scorable))} of {len(label)} has a label or a prediction without a "
            f"finite {objective} loss.",
            "Check this window's batch for extreme labels; `tidemill rollback` replaces a model "
            "with such predictions.",
        )
    return np.asarray(loss, dtype=np.float64)


def constant_prior(objective: Objective, label: Array, parameters: Parameters) -> float | None:
    """Mean loss of the best constant prediction in hindsight; None without rows.

    It is chosen on the rows on which it is scored, which makes it a stronger reference than a
    constant learned before: only a model that distinguishes rows can be better.
    """
    n = len(label)
    if n == 0:
        return None
    if objective == "multiclass":
        rates = np.append(np.bincount(label.astype(np.int64)) / n, 0.0)  # at least two columns
        constant: Array = np.broadcast_to(rates, (n, len(rates)))
    else:
        constant = np.full(n, _best_constant(objective, label, parameters))
    return float(row_losses(objective, label, constant, parameters).mean())


def auc(label: Array, score: Array) -> float | None:
    """The share of (1, 0) pairs in the right order, ties as half; None without a pair."""
    positives = int((label == 1).sum())
    negatives = len(label) - positives
    if positives == 0 or negatives == 0:
        return None
    _, codes, counts = np.unique(score, return_inverse=True, return_counts=True)
    middle_ranks = np.cumsum(counts) - (counts - 1) / 2
    ranks = float(middle_ranks[codes[label == 1]].sum())
    return (ranks - positives * (positives + 1) / 2) / (positives * negatives)


def calibration(objective: Objective, label: Array, prediction: Array) -> Calibration | None:
    """Calibration of the predictions; None for `multiclass` and without rows."""
    if objective == "multiclass" or len(label) == 0:
        return None
    means = float(prediction.mean()), float(label.mean())
    if objective != "binary":
        return Calibration(*means)
    tenth = np.clip(np.floor(prediction * 10), 0, 9).astype(np.int64)
    n = np.bincount(tenth, minlength=10).tolist()
    predicted = np.bincount(tenth, prediction, 10).tolist()
    observed = np.bincount(tenth, label, 10).tolist()
    sums = zip(n, predicted, observed, strict=True)
    return Calibration(*means, tuple(Bin(k, p / k, o / k) for k, p, o in sums if k))


def permutation_test(
    objective: Objective,
    label: Array,
    prediction: Array,
    clusters: npt.NDArray[np.int64],
    parameters: Parameters,
    seed: int,
) -> Estimate:
    """Mean loss with the labels shuffled among these rows minus the actual mean loss, as `m`.

    If it is near 0, the predictions do not belong to these labels: the labels were permuted, or
    the model has learned nothing. `seed` determines the shuffle.
    """
    shuffled = label[np.random.Generator(np.random.PCG64(seed)).permutation(len(label))]
    permuted = row_losses(objective, shuffled, prediction, parameters)
    actual = row_losses(objective, label, prediction, parameters)
    return estimate(cluster_differences(permuted, actual, clusters))


def losses_by_slice(
    field: str, values: pl.Series, losses: Mapping[str, Array]
) -> tuple[Slice, ...]:
    """Mean loss per role for the `MAX_SLICES` largest values of a category column."""
    value_codes: dict[str | None, int] = {}
    column = values.cast(pl.String).to_list()
    codes = np.array(
        [value_codes.setdefault(value, len(value_codes)) for value in column], dtype=np.int64
    )
    n = np.bincount(codes, minlength=len(value_codes)).tolist()
    sums = {
        role: np.bincount(codes, loss, len(value_codes)).tolist() for role, loss in losses.items()
    }
    largest = sorted(
        value_codes.items(), key=lambda item: (-n[item[1]], item[0] is None, item[0] or "")
    )
    return tuple(
        Slice(field, value, n[code], {role: sums[role][code] / n[code] for role in sums})
        for value, code in largest[:MAX_SLICES]
    )


def _check_shapes(objective: Objective, label: Array, prediction: Array) -> None:
    fits = prediction.ndim == 1 + (objective == "multiclass") and len(prediction) == len(label)
    if fits and objective == "multiclass" and len(label):
        fits = bool(label.min() >= 0 and label.max() < prediction.shape[1])
    if not fits:
        raise ScoreInvalid(
            f"Labels {label.shape} and {objective} predictions {prediction.shape} do not match.",
            "Compare the model's objective and classes with those in `defs.yaml`.",
        )


def _losses(objective: Objective, y: Array, p: Array, parameters: Parameters) -> Array:
    match objective:
        case "binary":
            clipped = np.clip(p, PROBABILITY_CLIP, 1 - PROBABILITY_CLIP)
            loss = -np.where(y == 1, np.log(clipped), np.log(1 - clipped))
            return np.where((y == 0) | (y == 1), loss, np.nan)
        case "multiclass":
            true_class = p[np.arange(len(y)), y.astype(np.int64)]
            return -np.log(np.clip(true_class, PROBABILITY_CLIP, 1 - PROBABILITY_CLIP))
        case "regression":
            return np.square(y - p)
        case "regression_l1":
            return np.abs(y - p)
        case "huber":
            alpha, distance = _alpha(parameters), np.abs(y - p)
            linear = alpha * (distance - alpha / 2)
            return np.where(distance <= alpha, np.square(distance) / 2, linear)
        case "quantile":
            alpha, residual = _alpha(parameters), y - p
            return np.where(residual >= 0, alpha * residual, (alpha - 1) * residual)
        case "poisson":
            return _deviance(y, p, 1.0)
        case "gamma":
            return _deviance(y, p, 2.0)
        case "tweedie":
            return _deviance(y, p, float(parameters.get("tweedie_variance_power", 1.5)))


def _deviance(y: Array, p: Array, power: float) -> Array:
    """Unit deviance of the Tweedie family; rounding errors below 0 are clipped."""
    mean = np.maximum(p, _MIN_MEAN)
    floor = np.maximum(y, _MIN_MEAN)  # avoids log(0); the term is the same for every model
    if power == 1.0:
        deviance = 2 * (y * np.log(floor / mean) - (y - mean))
    elif power == 2.0:
        deviance = 2 * ((floor - mean) / mean - np.log(floor / mean))
    else:
        one, two = 1 - power, 2 - power
        saturated = np.maximum(y, 0.0) ** two / (one * two)
        deviance = 2 * (saturated - y * mean**one / one + mean**two / two)
    return np.where(y >= 0, np.maximum(deviance, 0.0), np.nan)


def _best_constant(objective: Objective, label: Array, parameters: Parameters) -> float:
    if objective == "regression_l1":
        return float(np.median(label))
    if objective == "quantile":
        return float(np.quantile(label, _alpha(parameters), method="inverted_cdf"))
    if objective == "huber":
        return _huber_centre(label, _alpha(parameters))
    return float(label.mean())


def _huber_centre(label: Array, alpha: float) -> float:
    """The minimum of the mean Huber loss: the zero of its slope, by bisection."""
    low, high = float(label.min()), float(label.max())
    for _ in range(64):
        middle = (low + high) / 2
        if np.clip(label - middle, -alpha, alpha).sum() > 0:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def _alpha(parameters: Parameters) -> float:
    return float(parameters.get("alpha", 0.9))  # LightGBM's default
