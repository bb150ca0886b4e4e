"""What the tracker records of a window: parameters, metrics, tags and texts by name."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from tidemill.core import canonical
from tidemill.core.ledger import Entry
from tidemill.core.plans import Plan
from tidemill.core.records import Candidate, Manifest
from tidemill.core.report_markdown import render_markdown
from tidemill.core.report_records import Report
from tidemill.core.spec import ModelSpec
from tidemill.core.windows import from_ms


@dataclass(frozen=True)
class WindowRun:
    """One window of one model, as recorded by its run in the tracker.

    `digest` is the sha256 of the window's report, by which a repeated recording is recognized.
    """

    model: str
    window: str
    digest: str
    timestamp_ms: int
    params: Mapping[str, str] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    texts: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class RegistryVersion:
    """A version in the registry: a deployed model, with the ledger entry that first deployed it."""

    digest: str
    tags: Mapping[str, str]


def window_run(
    spec: ModelSpec,
    plan: Plan,
    manifest: Manifest,
    candidate: Candidate,
    report: Report,
    rows: pl.DataFrame,
    tags: Mapping[str, str],
) -> WindowRun:
    """The run of a window with a report; `rows` are the batch's, `tags` are added to its own."""
    encoded = canonical.encode(report)
    return WindowRun(
        model=report.model,
        window=report.window,
        digest=canonical.digest(encoded),
        timestamp_ms=plan.end,
        params=dict(_flatten(spec.model_dump(mode="json", by_alias=True))),
        metrics={
            **_count_metrics(manifest, candidate, report),
            **_loss_metrics(report),
            **_comparison_metrics(report),
            **_field_metrics(spec, rows),
        },
        tags={
            **_window_tags(plan, candidate, report),
            "batch.rows_digest": manifest.rows_digest,
            **tags,
        },
        texts={"report.md": render_markdown(report), "report.json": encoded.decode()},
    )


def registry_version(entry: Entry) -> RegistryVersion:
    """The registry version of a deployed model."""
    tags = {
        "seq": str(entry.seq),
        "kind": entry.kind,
        "as_of": entry.as_of or "",
        "actor": entry.actor,
        "reason": entry.reason,
    }
    return RegistryVersion(entry.digest, tags)


def _window_tags(plan: Plan, candidate: Candidate, report: Report) -> dict[str, str]:
    return {
        "window.start": from_ms(plan.start).isoformat(),
        "window.end": from_ms(plan.end).isoformat(),
        "topic": plan.topic,
        "topic_id": plan.topic_id,
        "epoch": str(plan.epoch),
        "lineage": report.lineage,
        "offsets": " ".join(f"{r.partition}:{r.start}-{r.end}" for r in plan.ranges),
        "verdict": report.verdict,
        "reasons": "; ".join(report.reasons),
        "mode": report.state.mode,
        "kind": candidate.kind,
        "candidate": candidate.digest,
        "parent": candidate.parent,
        "holdout": candidate.holdout or "",
        "champion": report.state.champion,
        "baseline": report.state.baseline,
    }


def _flatten(mapping: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, str]]:
    for key, value in mapping.items():
        name = f"{path}.{key}" if path else key
        if isinstance(value, Mapping) and value:
            yield from _flatten(value, name)
        elif value is not None and value not in ({}, []):
            yield name, ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _count_metrics(manifest: Manifest, candidate: Candidate, report: Report) -> dict[str, float]:
    metrics: dict[str, float | None] = {
        "rows": manifest.rows,
        "rejected": manifest.rejected,
        "late": manifest.late,
        "early": manifest.early,
        "gaps": manifest.gaps,
        "timestamps.create_time": manifest.timestamps.create_time,
        "timestamps.log_append_time": manifest.timestamps.log_append_time,
        "timestamps.not_available": manifest.timestamps.not_available,
        "base_rate": report.base_rate,
        "clusters": report.clusters,
        "tail_rows": report.tail_rows,
        "pool_size": len(report.state.pool),
        "num_iterations": candidate.num_iterations,
        "since_retrain": candidate.since_retrain,
        "promoted": report.verdict == "promote",
        "rolled_back": report.verdict == "rollback",
        **{f"rejected.{reason}": count for reason, count in manifest.reasons.items()},
        **{f"age.{role}": model.age for role, model in report.models.items()},
    }
    return _without_missing(metrics)


def _loss_metrics(report: Report) -> dict[str, float]:
    metrics: dict[str, float | None] = {
        f"loss.{role}": loss for role, loss in report.losses.items()
    }
    metrics["auc"] = report.auc
    if report.calibration is not None:
        metrics["calibration.bias"] = report.calibration.bias
    metrics["permutation_test.t"] = report.permutation_check.estimate.t
    if report.cumulative_losses.rows:
        sums = report.cumulative_losses.sums
        n = report.cumulative_losses.rows
        metrics |= {f"cumulative_loss.{role}": total / n for role, total in sums.items()}
    return _without_missing(metrics)


def _comparison_metrics(report: Report) -> dict[str, float]:
    metrics: dict[str, float | None] = {}
    for test in report.comparisons:
        values = {
            "gain": test.gain,
            "se": test.estimate.se,
            "t": test.estimate.t,
            "n": test.estimate.n,
            "clusters": test.estimate.clusters,
            "t_above": test.t_above,
            "t_below": test.t_below,
        }
        metrics |= {f"{test.scope}.{name}": value for name, value in values.items()}
    return _without_missing(metrics)


def _field_metrics(spec: ModelSpec, rows: pl.DataFrame) -> dict[str, float]:
    """Share of missing values per field; mean and deviation of numbers, distinct categories."""
    metrics: dict[str, float | None] = {}
    for name, field_ in spec.fields.items():
        if not rows.height or name not in rows.columns:
            continue
        column = rows[name]
        metrics[f"field.{name}.missing"] = column.null_count() / rows.height
        if field_.type == "category":
            metrics[f"field.{name}.values"] = column.n_unique()
        else:
            numbers = column.cast(pl.Float64)
            mean, std = numbers.mean(), numbers.std()
            metrics[f"field.{name}.mean"] = mean if isinstance(mean, float) else None
            metrics[f"field.{name}.std"] = std if isinstance(std, float) else None
    return _without_missing(metrics)


def _without_missing(metrics: Mapping[str, float | None]) -> dict[str, float]:
    """The defined metrics: an undefined one is left out and never recorded as zero."""
    return {name: float(value) for name, value in metrics.items() if value is not None}
