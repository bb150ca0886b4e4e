"""The checks of a window: their declarations and evaluations."""

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
    from tidemill.core.report_records import Report


@dataclass(frozen=True)
class Check:
    """A check of one asset; a step that raises one of `blocking_errors` has failed the check."""

    asset: str
    name: str
    description: str
    blocking_errors: tuple[type[TidemillError], ...] = ()


REJECT_SHARE = Check(
    "kafka_batch",
    "reject_share",
    "At most `max_reject_share` of the window's records are rejected, and every declared field is "
    "present. Nothing is learned from a window that fails.",
    (TooManyRejects, SchemaBroken),
)
FEW_ROWS = Check("kafka_batch", "few_rows", "The window has at least `min_rows` rows.")
TIMESTAMPS = Check(
    "kafka_batch",
    "timestamps",
    "Every record carries its producer's timestamp. The broker's timestamp is the time of arrival "
    "and not of the event: if the topic is set to LogAppendTime, windows are cut by arrival. "
    "Records without a timestamp are rejected.",
)
PERMUTATION_TEST = Check(
    "evaluation_report",
    "permutation_test",
    "The champion predicts these labels better than the same labels shuffled within the window; "
    "if it does not, labels may have been permuted.",
)
GOLDEN_ROWS = Check(
    "deployed_model",
    "golden_rows",
    "The model in service reproduces its golden rows exactly as recorded, in a separate process.",
    (FeatureSkew, BundleInvalid),
)
MLFLOW_RECORD = Check(
    "deployed_model",
    "mlflow_record",
    "MLflow has a run for each window of this run, a version for each deployed model, and its "
    "alias at the ledger's head. If MLflow was down, the next run or `tidemill verify MODEL "
    "--repair` fills the gaps; nothing else depends on it. Evaluated at the last window of a run.",
)
CHECKS = (REJECT_SHARE, FEW_ROWS, TIMESTAMPS, PERMUTATION_TEST, GOLDEN_ROWS, MLFLOW_RECORD)


def check_specs(model: str) -> list[dg.AssetCheckSpec]:
    """The specs of the checks of one model's windowed assets."""
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
    """The failed evaluation of the check that this error of an asset's step blocks on, if any."""
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
    """The evaluation of a check for one window; severity ERROR if the check blocks, else WARN."""
    severity = dg.AssetCheckSeverity.ERROR if check.blocking_errors else dg.AssetCheckSeverity.WARN
    return dg.AssetCheckEvaluation(
        asset_key=dg.AssetKey([model, check.asset]),
        check_name=check.name,
        passed=passed,
        severity=severity,
        metadata=metadata,
        partition=window,
    )


def batch_checks(spec: ModelSpec, window: str, batch: "Manifest") -> list[dg.AssetCheckEvaluation]:
    """The evaluations of a committed batch: `reject_share` has passed, the others may fail."""
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
    counts = batch.timestamps
    timestamps = {
        "created": dg.MetadataValue.int(counts.create_time),
        "appended": dg.MetadataValue.int(counts.log_append_time),
        "none": dg.MetadataValue.int(counts.not_available),
    }
    all_created = not (counts.log_append_time or counts.not_available)
    return [
        evaluation(spec.name, REJECT_SHARE, window, True, rejects),
        evaluation(spec.name, FEW_ROWS, window, batch.rows >= spec.warn_below_rows, rows),
        evaluation(spec.name, TIMESTAMPS, window, all_created, timestamps),
    ]


def permutation_test_check(model: str, window: str, report: "Report") -> dg.AssetCheckEvaluation:
    """Whether predictions belong to their labels; it does not pass if there are too few rows."""
    skill = report.permutation_check.estimate
    metadata: dict[str, dg.MetadataValue] = {"rows": dg.MetadataValue.int(skill.n)}
    if skill.t is not None:
        metadata["t"] = dg.MetadataValue.float(skill.t)
    if report.permutation_check.alarm is None:
        metadata["not_judged"] = dg.MetadataValue.text("too few rows, or clusters of event time")
    passed = report.permutation_check.alarm is False
    return evaluation(model, PERMUTATION_TEST, window, passed, metadata)


def mlflow_record_check(
    model: str, window: str, error: TidemillError | None
) -> dg.AssetCheckEvaluation:
    """Whether the run was recorded in MLflow; if not, the error and the command that repairs it."""
    metadata: dict[str, dg.MetadataValue] = {}
    if error is not None:
        metadata["what"] = dg.MetadataValue.text(error.message)
        metadata["remedy"] = dg.MetadataValue.text(f"tidemill verify {model} --repair")
    return evaluation(model, MLFLOW_RECORD, window, error is None, metadata)
