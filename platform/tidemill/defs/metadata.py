"""The metadata of materializations: counts, offsets, digests, losses, reasons."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import dagster as dg

from tidemill.core.windows import from_ms

if TYPE_CHECKING:
    from tidemill.core.deployment import Deployment
    from tidemill.core.plans import Plan
    from tidemill.core.records import Candidate, InitialModel, Manifest
    from tidemill.core.report_records import Report

Metadata = dict[str, dg.MetadataValue]
Cell = str | int | float | bool | None


def initial_metadata(initial: "InitialModel") -> Metadata:
    """Digest, size and provenance of the initial model."""
    return {
        "digest": _text(initial.digest),
        "trees": _int(initial.num_iterations),
        "rows": _int(initial.rows),
        "data_end": _text(from_ms(initial.data_end_ms).isoformat()),
        "sample": _text(f"{initial.model}/{initial.sample.snapshot.name}"),
        "path": _text(f"{initial.model}/initial.json"),
        "libraries": dg.MetadataValue.json(dict(initial.libraries)),
    }


def batch_metadata(manifest: "Manifest", plan: "Plan | None") -> Metadata:
    """Counts of a batch, the reasons of its rejects, and the offsets per Kafka partition."""
    metadata: Metadata = {
        "rows": _int(manifest.rows),
        "dagster/partition_row_count": _int(manifest.rows),
        "rejected": _int(manifest.rejected),
        "late": _int(manifest.late),
        "early": _int(manifest.early),
        "gaps": _int(manifest.gaps),
        "rows_digest": _text(manifest.rows_digest),
        "plan": _text(manifest.plan),
        "epoch": _int(manifest.epoch),
        "path": _text(f"{manifest.model}/batches/{manifest.window}/manifest.json"),
    }
    if manifest.reasons:
        metadata["reasons"] = dg.MetadataValue.json(dict(manifest.reasons))
    if any(manifest.missing.values()):
        metadata["missing"] = dg.MetadataValue.json(
            {field: count for field, count in manifest.missing.items() if count}
        )
    if manifest.skipped is not None:
        metadata["skipped"] = _text(f"{manifest.skipped.reason} ({manifest.skipped.actor})")
    if plan is not None and plan.ranges:
        metadata["offsets"] = table(
            ("partition", "start", "end", "records", "ended_by"),
            [(r.partition, r.start, r.end, r.end - r.start, r.end_reason) for r in plan.ranges],
        )
    return metadata


def candidate_metadata(candidate: "Candidate") -> Metadata:
    """How the candidate was trained, and the digests of it, its parent and its holdout fit."""
    return {
        "digest": _text(candidate.digest),
        "kind": _text(candidate.kind),
        "trees": _int(candidate.num_iterations),
        "parent": _text(candidate.parent),
        "holdout": _text(candidate.holdout or "none: too few rows"),
        "tail_rows": _int(candidate.tail_rows),
        "since_retrain": _int(candidate.since_retrain),
        "lineage": _text(candidate.lineage),
    }


def report_metadata(report: "Report") -> Metadata:
    """The verdict with its reasons, the tests, and the whole report as Markdown."""
    from tidemill.core.report_markdown import render_markdown

    return {
        "verdict": _text(report.verdict),
        "reasons": _text("; ".join(report.reasons)),
        "champion": _text(report.state.champion),
        "baseline": _text(report.state.baseline),
        "mode": _text(report.state.mode),
        "rows": _int(report.rows),
        "losses": table(("model", "mean loss"), list(report.losses.items())),
        "tests": table(
            ("test", "outcome", "rows", "clusters", "gain", "t"),
            [
                (c.scope, c.outcome, c.estimate.n, c.estimate.clusters, c.gain, c.estimate.t)
                for c in report.comparisons
            ],
        ),
        "path": _text(f"{report.model}/reports/{report.window}.json"),
        "report": dg.MetadataValue.md(render_markdown(report)),
    }


def tracking_metadata(run_url: str | None) -> Metadata:
    """A link to the tracker's run of the window, if there is one."""
    return {"mlflow": dg.MetadataValue.url(run_url)} if run_url else {}


def deployment_metadata(deployment: "Deployment") -> Metadata:
    """The result of the window's deployment, and the ledger entry in force after it."""
    return {
        "status": _text(deployment.status),
        "digest": _text(deployment.digest),
        "seq": _int(deployment.seq),
        "reason": _text(deployment.reason),
    }


def _text(value: str) -> dg.MetadataValue:
    return dg.MetadataValue.text(value)


def _int(value: int) -> dg.MetadataValue:
    return dg.MetadataValue.int(value)


def table(columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> dg.MetadataValue:
    """A table of plain cells; a column has the type of its first cell that is not None."""

    def column_type(column: int) -> str:
        cell = next((row[column] for row in rows if row[column] is not None), "")
        return {bool: "bool", int: "int", float: "float"}.get(type(cell), "string")

    schema = dg.TableSchema(
        [dg.TableColumn(name, column_type(index)) for index, name in enumerate(columns)]
    )
    records = [dg.TableRecord(dict(zip(columns, row, strict=True))) for row in rows]
    return dg.MetadataValue.table(records, schema)
