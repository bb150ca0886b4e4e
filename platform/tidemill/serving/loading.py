"""From bundles to predictors: validated in a child process, then loaded."""

from collections.abc import Callable
from dataclasses import dataclass

from tidemill.core.bundle import Model, feature_function_reference
from tidemill.core.features import FeatureFunction
from tidemill.ports import BundleValidator
from tidemill.serving.predictor import Predictor
from tidemill.serving.schemas import RequestSchema


@dataclass(frozen=True)
class PredictorLoader:
    """Loads bundles, each with the feature function it was made with (by `load_function`).

    After an adoption, this may differ from the function that `defs.yaml` names.
    """

    validator: BundleValidator
    load_function: Callable[[str], FeatureFunction]

    def __call__(self, bundle: bytes, digest: str, schema: RequestSchema) -> Predictor:
        """The predictor of a bundle.

        Whoever fetches the bytes verifies their digest: `ModelStore.bundle` or
        `LocalCopy.bundle`. `Model.load` verifies it once more before this process parses them.
        Raises `DigestMismatch`, `FeatureSkew`, `BundleInvalid`, and what `load_function` raises.
        """
        self.validator.validate(bundle)
        reference = feature_function_reference(bundle)
        function = self.load_function(reference) if reference else None
        return Predictor(Model.load(bundle, digest, function), schema)
