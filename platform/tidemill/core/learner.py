"""The learner: a few more trees on a new batch, or all trees from scratch on the sample."""

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

import numpy as np
import polars as pl

from tidemill.core import bundle, lightgbm_import
from tidemill.core.bundle import Model
from tidemill.core.errors import SpecInvalid
from tidemill.core.features import (
    Array,
    Column,
    FeatureFunction,
    Vocabulary,
    check_row_wise,
    compute_features,
    extend_vocabulary,
    feature_columns,
    matrix,
)
from tidemill.core.records import UpdateKind
from tidemill.core.replay import CANONICAL_ORDER
from tidemill.core.spec import ModelSpec
from tidemill.core.spec_sections import RESERVED_PARAMETERS, BoostingSpec, LearnerSpec, Scalar

MIN_HOLDOUT_ROWS = 150
"""A window with fewer rows has no holdout fit."""
MIN_BAGGING_ROWS = 100
"""Bagging is disabled for fewer rows, because LightGBM fails on an empty bag."""

_COUNT_OBJECTIVES = ("poisson", "tweedie")  # cannot be trained if all labels are 0


def sort_canonical(rows: pl.DataFrame) -> pl.DataFrame:
    """The rows sorted by timestamp, partition, offset and, if present, epoch."""
    return rows.sort([name for name in CANONICAL_ORDER if name in rows.columns])


def tail_rows(rows: int) -> int:
    """The number of rows that the holdout fit must not see: ⌈0.2 n⌉; 0 below 150 rows."""
    return -(-rows // 5) if rows >= MIN_HOLDOUT_ROWS else 0


def without_holdout(rows: pl.DataFrame) -> pl.DataFrame | None:
    """The rows of the holdout fit: ordered rows without their tail; None if there is no tail."""
    tail = tail_rows(rows.height)
    return rows.head(rows.height - tail) if tail else None


def choose_update_kind(
    since_retrain: int, num_iterations: int, learner: LearnerSpec, rows: int = 1
) -> UpdateKind:
    """The kind of update for a window.

    `since_retrain` counts the windows after the last retraining, without this one;
    `num_iterations` are the parent's boosting rounds; `rows` the window's rows.
    """
    if rows == 0:
        return "carry"
    due = since_retrain + 1 >= learner.retrain_every
    over_limit = num_iterations + learner.continue_.num_iterations > learner.max_iterations
    return "retrain" if due or over_limit else "continue"


def fit(
    spec: ModelSpec,
    rows: pl.DataFrame,
    *,
    parent: Model | None,
    continue_: bool,
    golden: pl.DataFrame,
    window: str | None,
    seed: int,
    num_threads: int,
    function: FeatureFunction | None = None,
) -> bytes:
    """The bundle of a model that learned from `rows`: a pure function of its arguments.

    With `continue_`, trees, columns and vocabulary extend those of `parent`; otherwise they start
    from scratch, so a vocabulary is bounded by the sample and the windows until a retraining.
    `golden` are ordered rows to choose golden rows from. Raises `SpecInvalid` for a parameter that
    LightGBM does not accept, or a feature function that is not row-wise.
    """
    _check_reference(spec, function)
    check_parameters(spec.learner.parameters)
    field_names = list(spec.fields)
    check_row_wise(golden, field_names, function)
    rows = sort_canonical(rows)
    features = compute_features(rows, field_names, function)
    label = rows[spec.label].cast(pl.Float64).to_numpy()
    base = parent if continue_ else None
    columns = base.header.columns if base else feature_columns(features)
    vocabulary = extend_vocabulary(base.vocabulary if base else Vocabulary(), features, columns)
    if spec.objective in _COUNT_OBJECTIVES and not label.any():
        unchanged = _require_parent(spec, parent)
        text = unchanged.text
        columns = unchanged.header.columns
        vocabulary = unchanged.vocabulary
    else:
        parameters = lightgbm_parameters(spec, continue_, len(label), seed, num_threads)
        feature_matrix = matrix(features, columns, vocabulary)
        text = _train(parameters, feature_matrix, label, columns, base.text if base else None)
    return bundle.encode(spec, text, columns, vocabulary, function, golden, window)


def _require_parent(spec: ModelSpec, parent: Model | None) -> Model:
    """The parent, which remains as it is if all labels are 0. Raises `SpecInvalid` without one."""
    if parent is None:
        raise SpecInvalid(
            f"All labels `{spec.label}` are 0; {spec.objective} cannot be trained on these.",
            "Use historical data with other labels, too.",
        )
    return parent


def check_parameters(parameters: Mapping[str, Scalar]) -> None:
    """Raise `SpecInvalid` for a name that LightGBM does not support (it would ignore it silently),
    or that is an alias of a parameter that tidemill sets."""
    config_aliases = lightgbm_import.import_lightgbm().basic._ConfigAliases
    aliases = config_aliases._get_all_param_aliases()
    known_names = {*aliases, *(other for others in aliases.values() for other in others)}
    reserved = config_aliases.get(*RESERVED_PARAMETERS)
    for name in sorted(parameters):
        if name not in known_names:
            suggestions = get_close_matches(name, sorted(known_names - reserved), 1)
            raise SpecInvalid(
                f"`learner.parameters`: LightGBM has no parameter `{name}`.",
                f"Did you mean `{suggestions[0]}`?"
                if suggestions
                else "See LightGBM's list of parameters.",
            )
        if name in reserved:
            raise SpecInvalid(
                f"`learner.parameters`: `{name}` is set by tidemill.",
                "See `continue`, `retrain` and `seed` of `learner`.",
            )


def lightgbm_parameters(
    spec: ModelSpec, continue_: bool, rows: int, seed: int, num_threads: int
) -> dict[str, Any]:
    """LightGBM's parameters for a step; with these, equal rows give equal trees."""
    step: BoostingSpec = spec.learner.continue_ if continue_ else spec.learner.retrain
    parameters: dict[str, Any] = dict(spec.learner.parameters)
    if rows < MIN_BAGGING_ROWS:
        parameters = {name: value for name, value in parameters.items() if "bagging" not in name}
        parameters = {name: value for name, value in parameters.items() if "subsample" not in name}
    return parameters | {
        "objective": spec.objective,
        "num_class": len(spec.classes) or 1,
        "num_iterations": step.num_iterations,
        "learning_rate": step.learning_rate,
        "num_leaves": step.num_leaves,
        "min_data_in_leaf": step.min_data_in_leaf,
        "seed": seed,
        "num_threads": num_threads,
        "deterministic": True,
        "force_row_wise": True,
        "verbosity": -1,
    }


def _train(
    parameters: dict[str, Any],
    data: Array,
    label: "np.ndarray[Any, np.dtype[np.float64]]",
    columns: tuple[Column, ...],
    parent_text: str | None,
) -> str:
    """The trained model in LightGBM's text format, without the parameters at its end."""
    lightgbm = lightgbm_import.import_lightgbm()
    categories = [index for index, column in enumerate(columns) if column.kind == "category"]
    try:
        booster = lightgbm.train(
            parameters,
            lightgbm.Dataset(data, label, categorical_feature=categories),
            num_boost_round=parameters["num_iterations"],
            init_model=None if parent_text is None else lightgbm.Booster(model_str=parent_text),
            keep_training_booster=True,
        )
    except (lightgbm.basic.LightGBMError, ValueError, TypeError) as error:
        raise SpecInvalid(
            f"LightGBM cannot train: {error}.",
            "Check `objective`, the label and `learner.parameters` in defs.yaml.",
        ) from error
    text: str = booster.model_to_string()
    # The parameters include the number of threads, which must not change the digest.
    return text[: text.index("\nparameters:")]


def _check_reference(spec: ModelSpec, function: FeatureFunction | None) -> None:
    reference = function.reference if function else None
    if reference != spec.features:
        raise SpecInvalid(
            f"The loaded feature function is {reference}; that of the model is {spec.features}.",
            "Load the function that `features` in defs.yaml names.",
        )
