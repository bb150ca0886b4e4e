"""The freshness check: whether the newest due window was processed in time."""

from datetime import timedelta
from typing import TYPE_CHECKING

import dagster as dg

from tidemill.core.errors import TidemillError, WindowOpen
from tidemill.core.retry_policy import FailureState
from tidemill.core.spec import ModelSpec
from tidemill.defs.checks import Check
from tidemill.defs.resources import TidemillResource

if TYPE_CHECKING:
    from tidemill.cycle.planning.backlog import Freshness

FRESHNESS = Check(
    "deployed_model",
    "freshness",
    "The newest due window was processed within `freshness.max_lag`, and no window is given up. "
    "Backfilling an older window does not change the result.",
)


def freshness_policy(spec: ModelSpec) -> dg.FreshnessPolicy | None:
    """Dagster's freshness policy of an asset: the time since any window was last materialized.

    None for a topic that replays the past, whose windows close as fast as it is replayed.
    """
    if spec.freshness.clock == "event_time":
        return None
    first = spec.calendar.first
    limit = spec.freshness.max_lag or 2 * (first.end - first.start)
    return dg.FreshnessPolicy.time_window(
        fail_window=timedelta(milliseconds=max(limit, 60_000))  # Dagster's minimum is a minute
    )


def freshness_check(spec: ModelSpec) -> dg.AssetChecksDefinition:
    """The check for evaluation in the UI; the sensor evaluates it by itself."""

    @dg.asset_check(
        asset=dg.AssetKey([spec.name, FRESHNESS.asset]),
        name=FRESHNESS.name,
        description=FRESHNESS.description,
    )
    def check_freshness(tidemill: dg.ResourceParam[TidemillResource]) -> dg.AssetCheckResult:
        from tidemill.cycle.planning.backlog import compute_backlog, freshness

        try:
            with tidemill.open_cached(spec) as ctx:
                evaluation = freshness_evaluation(
                    spec.name, freshness(ctx, compute_backlog(ctx)), None
                )
        except WindowOpen as error:
            evaluation = unknown_freshness(spec.name, error)
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
    """The check's evaluation: it fails if the model is stale or a window is given up."""
    given_up = failure_state is not None and failure_state.given_up
    metadata: dict[str, dg.MetadataValue] = {
        "lag_seconds": dg.MetadataValue.float(freshness.lag_ms / 1000),
        "limit_seconds": dg.MetadataValue.float(freshness.limit_ms / 1000),
        "newest_due_window": dg.MetadataValue.text(str(freshness.newest_due or "none yet")),
        "newest_completed_window": dg.MetadataValue.text(str(freshness.done or "none yet")),
    }
    if failure_state is not None:
        metadata["given_up" if given_up else "failure"] = dg.MetadataValue.text(str(failure_state))
    return _evaluation(model, freshness.fresh and not given_up, str(freshness), metadata)


def unknown_freshness(model: str, error: TidemillError) -> dg.AssetCheckEvaluation:
    """The check's evaluation if the freshness cannot be determined: it does not pass."""
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
