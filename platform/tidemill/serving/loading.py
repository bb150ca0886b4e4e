"""Bundles to predictors: verified, proven in a child process, loaded."""

from collections.abc import Callable
from dataclasses import dataclass

from tidemill.core import canonical
from tidemill.core.bundle import Model, feature_function_reference
from tidemill.core.errors import DigestMismatch
from tidemill.core.features import FeatureFunction
from tidemill.ports import BundleValidator
from tidemill.serving.predictor import Predictor
from tidemill.serving.schemas import RequestSchema


@dataclass(frozen=True)
class PredictorLoader:
    """Loads bundles, each with the feature function that it was made by: `function` finds it.

    After an adoption that may be another one than `defs.yaml` names.
    """

    validator: BundleValidator
    load_function: Callable[[str], FeatureFunction]

    def __call__(self, bundle: bytes, digest: str, schema: RequestSchema) -> Predictor:
        """The predictor of these bytes.

        Raises `DigestMismatch`, `FeatureSkew`, `BundleUnfit`, and what `function` raises.
        """
        if canonical.digest(bundle) != digest:
            raise DigestMismatch(
                f"The bytes of bundle {digest} are others.",
                "Restore the bundle from a backup; `tidemill verify` names all that is damaged.",
            )
        self.validator.validate(bundle)
        reference = feature_function_reference(bundle)
        function = self.load_function(reference) if reference else None
        return Predictor(Model.load(bundle, digest, function), schema)
