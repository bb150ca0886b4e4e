"""Validation of a bundle in this process, for scratch work and tests."""

from tidemill.adapters.bundle_validation.worker import validate_bundle


class InProcessValidator:
    """A `BundleValidator` without isolation: a bundle that crashes takes this process with it."""

    def validate(self, bundle: bytes) -> None:
        validate_bundle(bundle).raise_for_error()
