"""Bundles to predictors: verified, proven in a child process, loaded."""

from dataclasses import dataclass

from tidemill.core import canonical
from tidemill.core.bundle import Model
from tidemill.core.errors import DigestMismatch
from tidemill.core.features import FeatureFunction
from tidemill.ports import Prover
from tidemill.serving.predictor import Predictor
from tidemill.serving.schemas import Contract


@dataclass(frozen=True)
class Loader:
    """Loads bundles; `functions` are the models' feature functions as this process has them."""

    prover: Prover
    functions: dict[str, FeatureFunction | None]

    def __call__(self, bundle: bytes, digest: str, contract: Contract) -> Predictor:
        """The predictor of these bytes. Raises `DigestMismatch`, `FeatureSkew`, `BundleUnfit`."""
        if canonical.digest(bundle) != digest:
            raise DigestMismatch(
                f"The bytes of bundle {digest} are others.",
                "Restore the bundle from a backup; `tidemill verify` names all that is damaged.",
            )
        self.prover.prove(bundle)
        model = Model.load(bundle, digest, self.functions[contract.model])
        return Predictor(model, contract)
