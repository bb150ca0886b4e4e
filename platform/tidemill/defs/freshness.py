"""Freshness that tells the truth: a check on the newest window that is due."""

from datetime import timedelta
from typing import TYPE_CHECKING

import dagster as dg

from tidemill.core.errors import TidemillError, WindowOpen
from tidemill.core.spec import ModelSpec
from tidemill.core.watch import FailureState
from tidemill.defs.checks import Check
from tidemill.defs.watching import looking

if TYPE_CHECKING:
    from tidemill.cycle.due import Freshness

FRESH = Check(
    "deployed_model",
    "fresh",
    "The newest window that is due was worked through within `freshness.max_lag`, and none is "
    "given up. Back-filling an older window changes nothing about it.",
)


def policy(spec: ModelSpec) -> dg.FreshnessPolicy | None:
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


def fresh_check(model: str, spec: ModelSpec) -> dg.AssetChecksDefinition:
    """The check for those who ask in the UI; the sensor answers it by itself as time goes on."""

    @dg.asset_check(
        asset=dg.AssetKey([model, FRESH.asset]), name=FRESH.name, description=FRESH.description
    )
    def fresh() -> dg.AssetCheckResult:
        from tidemill.cycle.due import compute_backlog, freshness

        try:
            with looking(model, spec) as mill:
                told = answer(model, freshness(mill, compute_backlog(mill)), None)
        except WindowOpen as error:
            told = unknown(model, error)
        except TidemillError as error:
            raise dg.Failure(str(error), allow_retries=False) from error
        return dg.AssetCheckResult(
            passed=told.passed,
            severity=told.severity,
            metadata=told.metadata,
            description=told.description,
        )

    return fresh


def answer(model: str, seen: "Freshness", trouble: FailureState | None) -> dg.AssetCheckEvaluation:
    """The check's evaluation: stale, or given up, is a failure."""
    given_up = trouble is not None and trouble.given_up
    told: dict[str, dg.MetadataValue] = {
        "lag": dg.MetadataValue.float(seen.lag_ms / 1000),
        "limit": dg.MetadataValue.float(seen.limit_ms / 1000),
        "newest due window": dg.MetadataValue.text(str(seen.newest_due or "none yet")),
        "newest window done": dg.MetadataValue.text(str(seen.done or "none yet")),
    }
    if trouble is not None:
        told["given up" if given_up else "trouble"] = dg.MetadataValue.text(str(trouble))
    return _evaluation(model, seen.fresh and not given_up, str(seen), told)


def unknown(model: str, error: TidemillError) -> dg.AssetCheckEvaluation:
    """The check's evaluation where it cannot be known: not a pass."""
    told: dict[str, dg.MetadataValue] = {"error": dg.MetadataValue.text(type(error).__name__)}
    return _evaluation(model, False, str(error), told)


def _evaluation(
    model: str, passed: bool, description: str, metadata: dict[str, dg.MetadataValue]
) -> dg.AssetCheckEvaluation:
    return dg.AssetCheckEvaluation(
        asset_key=dg.AssetKey([model, FRESH.asset]),
        check_name=FRESH.name,
        passed=passed,
        severity=dg.AssetCheckSeverity.WARN,
        description=description,
        metadata=metadata,
    )
