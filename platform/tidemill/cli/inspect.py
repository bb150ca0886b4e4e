"""Commands that inspect: validate, status, history, verify."""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tidemill import bootstrap
from tidemill.cli.options import Json, ModelName, console, print_json, print_table
from tidemill.core.errors import SpecInvalid, TidemillError, TrackerUnavailable, VerificationFailed
from tidemill.settings import Settings

if TYPE_CHECKING:
    from tidemill.cycle.audit.verification import VerificationReport
    from tidemill.cycle.context import ModelContext


def validate(
    model: Annotated[str | None, typer.Argument(metavar="MODEL")] = None, as_json: Json = False
) -> None:
    """Validate the defs.yaml of one model or of all; each error has its file and line."""
    settings = Settings()
    names = [model] if model else list(bootstrap.model_files(settings))
    errors: list[str] = []
    for name in names:
        try:
            spec = bootstrap.load_spec(name, settings)
        except SpecInvalid as error:
            errors.append(error.message)
            continue
        if not as_json:
            first = spec.calendar.first
            console.print(
                f"{name}: valid. {len(spec.fields)} fields of topic {spec.topic}, "
                f"{spec.objective} label {spec.label}, first window {first.key}."
            )
    if as_json:
        print_json({"models": names, "errors": errors})
    if errors:
        raise SpecInvalid("\n".join(errors), "Correct the lines named above.")


def status(
    model: Annotated[str | None, typer.Argument(metavar="MODEL")] = None,
    as_json: Json = False,
) -> None:
    """Show each model's deployment, newest window, freshness and pending approval."""
    settings = Settings()
    rows: list[dict[str, object]] = []
    for name in [model] if model else list(bootstrap.model_files(settings)):
        with bootstrap.open_model(bootstrap.load_spec(name, settings), settings) as ctx:
            rows.append(_status_row(ctx))
    if as_json:
        print_json(rows)
    else:
        print_table(
            ["model", "in service", "entry", "as of", "newest window", "verdict", "mode", "fresh"],
            [
                [
                    row["model"],
                    str(row["in_service"] or "nothing yet")[:16],
                    row["ledger_entry"],
                    row["as_of"],
                    row["newest_window"],
                    row["verdict"],
                    row["mode"],
                    row["freshness"],
                ]
                for row in rows
            ],
        )


def _status_row(ctx: "ModelContext") -> dict[str, object]:

    head, report = ctx.chain().head, ctx.records.newest_report()
    return {
        "model": ctx.model,
        "in_service": head.entry.digest if head else None,
        "ledger_entry": head.entry.seq if head else None,
        "as_of": head.entry.as_of if head else None,
        "newest_window": report.window if report else None,
        "verdict": report.verdict if report else None,
        "mode": report.state.mode if report else None,
        "awaits_approval": report.state.pending if report else None,
        **_freshness(ctx),
    }


def _freshness(ctx: "ModelContext") -> dict[str, object]:
    """How far the model is behind, or the reason why that is unknown."""
    from tidemill.cycle.planning.backlog import compute_backlog, freshness

    if ctx.chain().head is None:  # the backlog would plan the initial model
        return {"fresh": None, "lag": None, "freshness": "no model yet"}
    try:
        result = freshness(ctx, compute_backlog(ctx))
    except TidemillError as error:
        unknown = f"unknown: {type(error).__name__}"
        return {"fresh": None, "lag": None, "freshness": unknown}
    text = f"{'yes' if result.fresh else 'STALE'}, {result.lag_ms / 1000:.0f} s behind"
    return {"fresh": result.fresh, "lag": result.lag_ms / 1000, "freshness": text}


def history(model: ModelName, as_json: Json = False) -> None:
    """List every deployment of a model in the ledger, and the invalid records."""
    settings = Settings()
    with bootstrap.open_model(bootstrap.load_spec(model, settings), settings) as ctx:
        chain = ctx.chain()
    if as_json:
        print_json([valid_entry.entry for valid_entry in chain.entries])
        return
    print_table(
        ["entry", "kind", "as of", "digest", "actor", "reason"],
        [
            [
                valid.entry.seq,
                valid.entry.kind,
                valid.entry.as_of,
                valid.entry.digest[:16],
                valid.entry.actor,
                valid.entry.reason,
            ]
            for valid in chain.entries
        ],
    )
    for invalid_record in chain.invalid_records:
        console.print(f"invalid at offset {invalid_record.offset}: {invalid_record.reason}")


def verify(
    model: ModelName,
    recompute: Annotated[
        bool, typer.Option("--recompute", help="Rebuild everything from Kafka and compare.")
    ] = False,
    repair: Annotated[
        bool, typer.Option("--repair", help="Fill the gaps in MLflow's record.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Check the stored data for consistency; each finding is one sentence."""
    from tidemill.cycle.audit.verify import verify as verify_model

    settings = Settings()
    spec = bootstrap.load_spec(model, settings)
    with bootstrap.local_databases(settings), bootstrap.open_model(spec, settings) as ctx:
        report = verify_model(ctx)
        report.findings.extend(_tracking_findings(ctx, repair))
        if recompute:
            _recompute(ctx, report)
    if as_json:
        print_json(report)
    else:
        _print_report(model, report, recompute)
    if report.findings:
        raise VerificationFailed(
            "\n".join(report.findings),
            "Nothing was changed. `--repair` fills gaps in MLflow's record; restore everything "
            "else that is named from a backup, or open an issue.",
        )


def _recompute(ctx: "ModelContext", report: "VerificationReport") -> None:
    """Rebuild every window from Kafka in a temporary store; differences are added to the report."""
    from tidemill.adapters.files import FileStore
    from tidemill.cycle.audit.recompute import recompute
    from tidemill.cycle.repository import ModelRepository

    with (
        tempfile.TemporaryDirectory(prefix="tidemill-verify-") as folder,
        console.status("rebuilding everything") as spinner,
    ):
        scratch_repository = ModelRepository(FileStore(Path(folder)), ctx.model)
        recompute(
            ctx,
            scratch_repository,
            report,
            lambda window: spinner.update(f"rebuilding {window}"),
        )


def _print_report(model: str, report: "VerificationReport", recompute: bool) -> None:
    console.print(
        f"{model}: {report.plans} plans, {report.batches} batches, "
        f"{report.candidates} candidates, {report.reports} reports, "
        f"{report.entries} ledger entries checked"
        + (f", {report.recomputed} windows rebuilt." if recompute else ".")
    )
    if report.pruned:
        console.print(
            f"`retention_windows` has pruned batches and models up to {report.pruned}"
            + ("; later windows were rebuilt." if recompute else ".")
        )
    if report.taken_as_archived:
        console.print(
            f"Kafka no longer has {len(report.taken_as_archived)} of the batches, which were "
            f"read from the store instead: {', '.join(report.taken_as_archived)}."
        )


def _tracking_findings(ctx: "ModelContext", repair: bool) -> list[str]:
    """The differences between MLflow's record and the store; with `repair`, those that remain."""
    from tidemill.cycle.tracking import Recorder, find_drift

    tracker = bootstrap.make_tracker(Settings())
    if tracker is None:
        return []
    try:
        differences = find_drift(ctx, tracker)
        if repair and list(differences.descriptions):
            Recorder(ctx, tracker).repair(differences)
            differences = find_drift(ctx, tracker)
    except TrackerUnavailable as error:
        return [error.message]
    return list(differences.descriptions)


COMMANDS = (validate, status, history, verify)
