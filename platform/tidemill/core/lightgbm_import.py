"""LightGBM: a light import, and boosters from and to plain values."""

import sys
from types import ModuleType
from typing import TYPE_CHECKING, cast

import numpy as np

from tidemill.core.errors import BUNDLE_REMEDY, BundleInvalid
from tidemill.core.features import Array

if TYPE_CHECKING:
    import lightgbm

_HIDDEN_MODULES = ("sklearn", "pandas", "dask", "matplotlib")


def import_lightgbm() -> ModuleType:
    """The module `lightgbm`.

    Its first import would also import scikit-learn and pandas, for interfaces that are not used
    here: 1.1 seconds of CPU instead of 0.2. They are therefore hidden from it, unless they are
    loaded already; `lightgbm.LGBMClassifier` and the like are then unavailable in this process.
    """
    hidden = [name for name in _HIDDEN_MODULES if name not in sys.modules]
    if "lightgbm" in sys.modules:
        hidden = []
    for name in hidden:
        sys.modules[name] = None  # type: ignore[assignment]  # makes an import of it fail
    try:
        import lightgbm as loaded
    finally:
        for name in hidden:
            del sys.modules[name]
    module: ModuleType = loaded
    return module


def load_booster(text: str) -> "lightgbm.Booster":
    """The booster in LightGBM's text format. Raises `BundleInvalid` if LightGBM detects damage;
    damage that it does not detect may crash the process."""
    library = import_lightgbm()
    try:
        return cast("lightgbm.Booster", library.Booster(model_str=text))
    except (library.basic.LightGBMError, ValueError) as error:
        raise BundleInvalid(f"LightGBM cannot read the trees: {error}.", BUNDLE_REMEDY) from error


def predict_matrix(booster: "lightgbm.Booster", data: Array, num_threads: int) -> Array:
    """The booster's predictions for a matrix, which may have no rows."""
    outputs = booster.num_model_per_iteration()
    if len(data) == 0:
        return np.empty((0, outputs) if outputs > 1 else 0)
    return cast(Array, booster.predict(data, num_threads=num_threads))
