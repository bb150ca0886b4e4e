"""Loads a user's feature function by reference, with the hash of its source."""

import importlib
import sys
from pathlib import Path

from tidemill.core import canonical
from tidemill.core.errors import SpecInvalid
from tidemill.core.features import FeatureFunction

_REMEDY = (
    "`features` has the form `module:function`; the module must be importable, for example a file "
    "in the folder where tidemill is started, or on PYTHONPATH."
)


def load_feature_function(reference: str) -> FeatureFunction:
    """Return the function `module:function` with the sha256 of its module's source file.

    Raises `SpecInvalid`.
    """
    module_name, _, name = reference.partition(":")
    if not module_name or not name:
        raise SpecInvalid(f"`features: {reference}` is not a valid reference.", _REMEDY)
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # a user's module may raise anything
        raise SpecInvalid(
            f"The module of `features: {reference}` cannot be imported from {sys.path[0] or '.'}: "
            f"{type(error).__name__}: {error}.",
            _REMEDY,
        ) from error
    function = getattr(module, name, None)
    if not callable(function):
        raise SpecInvalid(f"Module {module_name} has no function {name!r}.", _REMEDY)
    path = getattr(module, "__file__", None)
    if path is None or not path.endswith(".py") or not Path(path).is_file():
        raise SpecInvalid(f"Module {module_name} has no source file.", _REMEDY)
    return FeatureFunction(reference, canonical.digest(Path(path).read_bytes()), function)
