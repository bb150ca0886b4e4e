"""The result of a validation, as the worker process reports it."""

from dataclasses import dataclass

from tidemill.core.errors import BundleInvalid, FeatureSkew, SpecInvalid

REMEDY = "Keep the model in service, and rebuild the bundle with `tidemill verify --recompute`."
_ERROR_TYPES = {kind.__name__: kind for kind in (FeatureSkew, SpecInvalid, BundleInvalid)}


@dataclass(frozen=True)
class ValidationResult:
    """The outcome: no error, or the name of an error class with its message and remedy."""

    error: str | None
    message: str = ""
    remedy: str = ""

    def raise_for_error(self) -> None:
        """Raise the error, if there is one; an unknown class is raised as `BundleInvalid`."""
        if self.error is not None:
            raise _ERROR_TYPES.get(self.error, BundleInvalid)(self.message, self.remedy or REMEDY)
