"""LightGBM, without the libraries that it takes in where they happen to be installed."""

import sys
from types import ModuleType

_HIDDEN_MODULES = ("sklearn", "pandas", "dask", "matplotlib")


def import_lightgbm() -> ModuleType:
    """The module `lightgbm`.

    Its first import takes in scikit-learn and pandas for interfaces that nobody asks for here:
    1.1 seconds of CPU instead of .2. So they are hidden from it, unless they are loaded already;
    `lightgbm.LGBMClassifier` and its like are then not to be had in this process.
    """
    hidden = [name for name in _HIDDEN_MODULES if name not in sys.modules]
    if "lightgbm" in sys.modules:
        hidden = []
    for name in hidden:
        sys.modules[name] = None  # type: ignore[assignment]  # so an import of it fails
    try:
        import lightgbm as loaded
    finally:
        for name in hidden:
            del sys.modules[name]
    module: ModuleType = loaded
    return module
