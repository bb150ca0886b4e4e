"""The checks of a window: how they are declared, and how each window answers them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import dagster as dg

from tidemill.core.errors import (
    BundleInvalid,
    FeatureSkew,
    SchemaBroken,
    TidemillError,
    TooManyRejects,
)
from tidemill.core.spec import ModelSpec

if TYPE_CHECKING:
    from tidemill.core.records import Manifest
    from tidemill.core.report import Report


@dataclass(frozen=True)
class Check:
    """A check of one asset; `blocks` names the errors by which its failure ends the step."""

    asset: str
    name: str
    description: str
    blocking_errors: tuple[type[TidemillError], ...] = ()


REJECT_SHARE = Check(
    "kafka_batch",
    "reject_share",
    "No more than `max_reject_share` of the window's records are rejected, and every declared "
    "field is there. Nothing is learned from a window that fails.",
    (TooManyRejects, SchemaBroken),
)
FEW_ROWS = Check("kafka_batch", "few_rows", "The window has at least `min_rows` rows.")
TIMESTAMPS = Check(
    "kafka_batch",
    "timestamps",
    "Every record carries the time that its producer gave it. The broker's time says when a record "
    "came, not when it happened: once a topic is set to LogAppendTime, windows are cut by that. "
    "Records without a time are rejected.",
)
PAIRING_SKILL = Check(
    "evaluation_report",
    "permutation_test",
    "The champion predicts these labels better than the same labels shuffled within the window; "
    "if it does not, labels may have been permuted.",
)
GOLDEN_ROWS = Check(
    "deployed_model",
    "golden_rows",
    "The model in service answers its golden rows in a process of its own, exactly as recorded.",
    (FeatureSkew, BundleInvalid),
)
MLFLOW_RECORD = Check(
    "deployed_model",
    "record",
    "MLflow has the windows of the run, a version of every deployed model, and its alias at the "
    "ledger's head. If it was down, the next run or `tidemill verify MODEL --repair` makes up for "
    "it; nothing else waits for it. Told at the last window of a run.",
)
CHECKS = (REJECT_SHARE, FEW_ROWS, TIMESTAMPS, PAIRING_SKILL, GOLDEN_ROWS, MLFLOW_RECORD)


def check_specs(model: str) -> list[dg.AssetCheckSpec]:
    """The checks of one model, for its windowed assets."""
    return [
        dg.AssetCheckSpec(
            name=check.name,
            asset=dg.AssetKey([model, check.asset]),
            description=check.description,
            blocking=bool(check.blocking_errors),
        )
        for check in CHECKS
    ]


def failed_check_for(
    model: str, asset: str, window: str, error: Exception
) -> dg.AssetCheckEvaluation | None:
    """The failed evaluation that this error of an asset's step stands for, if it does."""
    for check in CHECKS:
        if check.asset == asset and isinstance(error, check.blocking_errors or ()):
            metadata: dict[str, dg.MetadataValue] = {
                "error": dg.MetadataValue.text(type(error).__name__),
                "what": dg.MetadataValue.text(str(error)),
            }
            return evaluation(model, check, window, False, metadata)
    return None


def evaluation(
    model: str,
    check: Check,
    window: str,
    passed: bool,
    metadata: Mapping[str, dg.MetadataValue] | None = None,
) -> dg.AssetCheckEvaluation:
    """One window's answer to a check: ERROR where it blocks, else WARN."""
    severity = dg.AssetCheckSeverity.ERROR if check.blocking_errors else dg.AssetCheckSeverity.WARN
    return dg.AssetCheckEvaluation(
        asset_key=dg.AssetKey([model, check.asset]),
        check_name=check.name,
        passed=passed,
        severity=severity,
        metadata=metadata,
        partition=window,
    )


def batch_checks(
    model: str, spec: ModelSpec, window: str, batch: "Manifest"
) -> list[dg.AssetCheckEvaluation]:
    """How a committed batch answers: its rejects are few, its rows and its times perhaps not as
    they should be."""
    records = batch.rows + batch.rejected
    share = batch.rejected / records if records else 0.0
    rejects = {
        "share": dg.MetadataValue.float(share),
        "limit": dg.MetadataValue.float(spec.max_reject_share),
    }
    rows = {
        "rows": dg.MetadataValue.int(batch.rows),
        "expected": dg.MetadataValue.int(spec.warn_below_rows),
    }
    timestamp_counts = batch.timestamps
    timestamps = {
        "created": dg.MetadataValue.int(timestamp_counts.create_time),
        "appended": dg.MetadataValue.int(timestamp_counts.log_append_time),
        "none": dg.MetadataValue.int(timestamp_counts.not_available),
    }
    return [
        evaluation(model, REJECT_SHARE, window, True, rejects),
        evaluation(model, FEW_ROWS, window, batch.rows >= spec.warn_below_rows, rows),
        evaluation(
            model,
            TIMESTAMPS,
            window,
            not (timestamp_counts.log_append_time or timestamp_counts.not_available),
            timestamps,
        ),
    ]


def pairing_check(model: str, window: str, report: "Report") -> dg.AssetCheckEvaluation:
    """Whether predictions belong to their labels; too few rows to tell is not a pass."""
    skill = report.permutation_check.estimate
    metadata: dict[str, dg.MetadataValue] = {"rows": dg.MetadataValue.int(skill.n)}
    if skill.t is not None:
        metadata["t"] = dg.MetadataValue.float(skill.t)
    if report.permutation_check.alarm is None:
        metadata["not judged"] = dg.MetadataValue.text("too few rows, or clusters of event time")
    return evaluation(
        model, PAIRING_SKILL, window, report.permutation_check.alarm is False, metadata
    )


def mlflow_record_check(
    model: str, window: str, error: TidemillError | None
) -> dg.AssetCheckEvaluation:
    """Whether the run's record was kept; what went wrong, and what mends it, if not."""
    metadata: dict[str, dg.MetadataValue] = {}
    if error is not None:
        metadata["what"] = dg.MetadataValue.text(error.message)
        metadata["remedy"] = dg.MetadataValue.text(f"tidemill verify {model} --repair")
    return evaluation(model, MLFLOW_RECORD, window, error is None, metadata)
