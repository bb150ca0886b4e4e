"""Look at what there is: check, status, history, verify."""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tidemill import bootstrap
from tidemill.cli.options import Json, ModelName, console, print_json, print_table
from tidemill.core.errors import SpecInvalid, TidemillError, TrackerUnavailable, VerificationFailed
from tidemill.settings import Settings

if TYPE_CHECKING:
    from tidemill.cycle.context import ModelContext


def validate(
    model: Annotated[str | None, typer.Argument(metavar="[MODEL]")] = None, as_json: Json = False
) -> None:
    """Check the defs.yaml of one model or of all; a mistake is named with its file and line."""
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
                f"{name}: right. {len(spec.fields)} fields of topic {spec.topic}, "
                f"{spec.objective} label {spec.label}, first window {first.key}."
            )
    if as_json:
        print_json({"models": names, "complaints": errors})
    if errors:
        raise SpecInvalid("\n".join(errors), "Mend the lines named above.")


def status(
    model: Annotated[str | None, typer.Argument(metavar="[MODEL]")] = None,
    services: Annotated[
        bool, typer.Option("--services", help="The services of `tidemill up` instead.")
    ] = False,
    as_json: Json = False,
) -> None:
    """What is in service, how far each model has come, and what it waits for."""
    from tidemill.cycle.manual_actions import newest_report

    settings = Settings()
    if services:
        from tidemill.services import table

        table.show(table.current_rows(settings), as_json)
        return
    rows: list[dict[str, object]] = []
    for name in [model] if model else list(bootstrap.model_files(settings)):
        with bootstrap.open_model(name, settings) as ctx:
            chain, report = ctx.chain(), newest_report(ctx)
            head = chain.head
            rows.append(
                {
                    "model": name,
                    "in_service": head.entry.digest if head else None,
                    "ledger_entry": head.entry.seq if head else None,
                    "as_of": head.entry.as_of if head else None,
                    "newest_window": report.window if report else None,
                    "verdict": report.verdict if report else None,
                    "mode": report.state.mode if report else None,
                    "awaits_approval": report.state.pending if report else None,
                    **_freshness(ctx),
                }
            )
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


def _freshness(ctx: "ModelContext") -> dict[str, object]:
    """How far the model is behind, or why that cannot be known."""
    from tidemill.cycle.backlog import compute_backlog, freshness

    if ctx.chain().head is None:  # and nothing is to be planned by a look
        return {"fresh": None, "lag": None, "freshness": "no model yet"}
    try:
        result = freshness(ctx, compute_backlog(ctx))
    except TidemillError as error:
        unknown = f"unknown: {type(error).__name__}"
        return {"fresh": None, "lag": None, "freshness": unknown}
    text = f"{'yes' if result.fresh else 'STALE'}, {result.lag_ms / 1000:.0f} s behind"
    return {"fresh": result.fresh, "lag": result.lag_ms / 1000, "freshness": text}


def history(model: ModelName, as_json: Json = False) -> None:
    """Every deployment of a model, as the ledger has it; void entries are marked."""
    with bootstrap.open_model(model, Settings()) as ctx:
        chain = ctx.chain()
    if as_json:
        print_json([valid_entry.entry for valid_entry in chain.entries])
        return
    print_table(
        ["entry", "kind", "as of", "digest", "by", "why"],
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
        console.print(f"void at offset {invalid_record.offset}: {invalid_record.reason}")


def verify(
    model: ModelName,
    recompute: Annotated[
        bool, typer.Option("--recompute", help="Make everything again from Kafka and compare.")
    ] = False,
    repair: Annotated[
        bool, typer.Option("--repair", help="Make up for what MLflow's record lacks.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Hold what is stored against the rules; every finding is a sentence."""
    from tidemill.adapters.files import FileStore
    from tidemill.cycle.recompute import recompute as make_again
    from tidemill.cycle.repository import ModelRepository
    from tidemill.cycle.verify import verify as check_all

    settings = Settings()
    with bootstrap.local_databases(settings), bootstrap.open_model(model, settings) as ctx:
        report = check_all(ctx)
        report.findings.extend(_tracking_findings(ctx, repair))
        if recompute:
            with (
                tempfile.TemporaryDirectory(prefix="tidemill-verify-") as folder,
                console.status("making everything again") as spinner,
            ):
                scratch_repository = ModelRepository(FileStore(Path(folder)), model)
                make_again(
                    ctx,
                    scratch_repository,
                    report,
                    lambda window: spinner.update(f"making {window} again"),
                )
    if as_json:
        print_json(report)
    else:
        console.print(
            f"{model}: {report.plans} plans, {report.batches} batches, "
            f"{report.candidates} candidates, {report.reports} reports, "
            f"{report.entries} ledger entries checked"
            + (f", {report.recomputed} windows made again." if recompute else ".")
        )
        if report.pruned:
            console.print(
                f"`retention_windows` has pruned batches and models up to {report.pruned}"
                + (", after which making again begins." if recompute else ".")
            )
        if report.taken_as_archived:
            console.print(
                f"The log no longer holds {len(report.taken_as_archived)} of the batches, which were taken "
                f"as archived: {', '.join(report.taken_as_archived)}."
            )
    if report.findings:
        raise VerificationFailed(
            "\n".join(report.findings),
            "Nothing was changed. `--repair` makes up for what MLflow lacks; restore anything else "
            "that is named from a backup, or ask in an issue.",
        )


def _tracking_findings(ctx: "ModelContext", repair: bool) -> list[str]:
    """Where MLflow's record is not what it mirrors; with `repair`, what is left of that."""
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
