"""Freshness that tells the truth: a check on the newest window that is due."""

from datetime import timedelta
from typing import TYPE_CHECKING

import dagster as dg

from tidemill.core.errors import TidemillError, WindowOpen
from tidemill.core.retry_policy import FailureState
from tidemill.core.spec import ModelSpec
from tidemill.defs.checks import Check
from tidemill.defs.connection_cache import open_readonly

if TYPE_CHECKING:
    from tidemill.cycle.backlog import Freshness

FRESHNESS = Check(
    "deployed_model",
    "fresh",
    "The newest window that is due was worked through within `freshness.max_lag`, and none is "
    "given up. Back-filling an older window changes nothing about it.",
)


def freshness_policy(spec: ModelSpec) -> dg.FreshnessPolicy | None:
    """Dagster's own policy of an asset: when it was last materialized, whichever window it was.

    None for a stream that replays the past: its windows come as fast as it is replayed.
    """
    if spec.freshness.clock == "log":
        return None
    first = spec.calendar.first
    limit = spec.freshness.max_lag or 2 * (first.end - first.start)
    return dg.FreshnessPolicy.time_window(
        fail_window=timedelta(milliseconds=max(limit, 60_000))  # Dagster's least is a minute
    )


def freshness_check(model: str, spec: ModelSpec) -> dg.AssetChecksDefinition:
    """The check for those who ask in the UI; the sensor answers it by itself as time goes on."""

    @dg.asset_check(
        asset=dg.AssetKey([model, FRESHNESS.asset]),
        name=FRESHNESS.name,
        description=FRESHNESS.description,
    )
    def check_freshness() -> dg.AssetCheckResult:
        from tidemill.cycle.backlog import compute_backlog, freshness

        try:
            with open_readonly(model, spec) as ctx:
                evaluation = freshness_evaluation(model, freshness(ctx, compute_backlog(ctx)), None)
        except WindowOpen as error:
            evaluation = unknown_freshness(model, error)
        except TidemillError as error:
            raise dg.Failure(str(error), allow_retries=False) from error
        return dg.AssetCheckResult(
            passed=evaluation.passed,
            severity=evaluation.severity,
            metadata=evaluation.metadata,
            description=evaluation.description,
        )

    return check_freshness


def freshness_evaluation(
    model: str, freshness: "Freshness", failure_state: FailureState | None
) -> dg.AssetCheckEvaluation:
    """The check's evaluation: stale, or given up, is a failure."""
    given_up = failure_state is not None and failure_state.given_up
    metadata: dict[str, dg.MetadataValue] = {
        "lag": dg.MetadataValue.float(freshness.lag_ms / 1000),
        "limit": dg.MetadataValue.float(freshness.limit_ms / 1000),
        "newest due window": dg.MetadataValue.text(str(freshness.newest_due or "none yet")),
        "newest window done": dg.MetadataValue.text(str(freshness.done or "none yet")),
    }
    if failure_state is not None:
        metadata["given up" if given_up else "trouble"] = dg.MetadataValue.text(str(failure_state))
    return _evaluation(model, freshness.fresh and not given_up, str(freshness), metadata)


def unknown_freshness(model: str, error: TidemillError) -> dg.AssetCheckEvaluation:
    """The check's evaluation where it cannot be known: not a pass."""
    metadata: dict[str, dg.MetadataValue] = {"error": dg.MetadataValue.text(type(error).__name__)}
    return _evaluation(model, False, str(error), metadata)


def _evaluation(
    model: str, passed: bool, description: str, metadata: dict[str, dg.MetadataValue]
) -> dg.AssetCheckEvaluation:
    return dg.AssetCheckEvaluation(
        asset_key=dg.AssetKey([model, FRESHNESS.asset]),
        check_name=FRESHNESS.name,
        passed=passed,
        severity=dg.AssetCheckSeverity.WARN,
        description=description,
        metadata=metadata,
    )
