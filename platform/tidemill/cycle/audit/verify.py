"""Verify: check the consistency of everything that is stored."""

from tidemill.core.errors import StoreUnavailable, TidemillError
from tidemill.cycle.audit.verification import Verification, VerificationReport
from tidemill.cycle.audit.verify_ledger import check_ledger
from tidemill.cycle.audit.verify_models import check_candidates, check_reports
from tidemill.cycle.audit.verify_plans import check_batches, check_plans
from tidemill.cycle.context import ModelContext
from tidemill.cycle.names import QUARANTINE


def verify(ctx: ModelContext) -> VerificationReport:
    """Check every record and file of the model against those it was made from.

    Raises `StoreUnavailable`, because it is not a finding about what is stored.
    """
    verification = Verification(ctx)
    for check in (
        _read_prune_marker,
        check_plans,
        check_batches,
        check_candidates,
        check_reports,
        check_ledger,
    ):
        try:
            check(verification)
        except StoreUnavailable:
            raise
        except TidemillError as error:
            verification.add_finding(f"{type(error).__name__}: {error.message}")
    if not verification.report.findings:  # the files of damaged records would seem orphaned
        _check_orphans(verification)
    return verification.report


def _read_prune_marker(verification: Verification) -> None:
    """Read up to which window `retention_windows` has pruned: its files may be missing."""
    verification.marker = verification.repository.prune_marker()
    verification.report.pruned = verification.marker.window if verification.marker else None


def _check_orphans(verification: Verification) -> None:
    """Every file in the store belongs to a record, or is in the quarantine."""
    for name in verification.repository.names(""):
        if name not in verification.accounted_names and not name.startswith(QUARANTINE):
            verification.add_finding(
                f"{verification.repository.model}/{name} belongs to no record."
            )
