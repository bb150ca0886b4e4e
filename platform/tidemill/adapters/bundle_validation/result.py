"""How a proof ended, as the helper process tells it."""

from dataclasses import dataclass

from tidemill.core.errors import BundleInvalid, FeatureSkew, SpecInvalid

REMEDY = "Keep the model in service, and make the bundle again by `tidemill verify --recompute`."
_ERROR_TYPES = {kind.__name__: kind for kind in (FeatureSkew, SpecInvalid, BundleInvalid)}


@dataclass(frozen=True)
class ValidationResult:
    """How a proof ended: no error, or the name of the error class with its two sentences."""

    error: str | None
    what: str = ""
    remedy: str = ""

    def raise_for_error(self) -> None:
        """Raise the error, if there is one; an unknown one is `BundleUnfit`."""
        if self.error is not None:
            raise _ERROR_TYPES.get(self.error, BundleInvalid)(self.what, self.remedy or REMEDY)
