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
    from tidemill.cycle.mill import ModelContext


def check(
    model: Annotated[str | None, typer.Argument(metavar="[MODEL]")] = None, as_json: Json = False
) -> None:
    """Check the defs.yaml of one model or of all; a mistake is named with its file and line."""
    settings = Settings()
    names = [model] if model else list(bootstrap.model_files(settings))
    complaints: list[str] = []
    for name in names:
        try:
            spec = bootstrap.load_spec(name, settings)
        except SpecInvalid as error:
            complaints.append(error.message)
            continue
        if not as_json:
            first = spec.calendar.first
            console.print(
                f"{name}: right. {len(spec.fields)} fields of topic {spec.topic}, "
                f"{spec.objective} label {spec.label}, first window {first.key}."
            )
    if as_json:
        print_json({"models": names, "complaints": complaints})
    if complaints:
        raise SpecInvalid("\n".join(complaints), "Mend the lines named above.")


def status(
    model: Annotated[str | None, typer.Argument(metavar="[MODEL]")] = None,
    services: Annotated[
        bool, typer.Option("--services", help="The services of `tidemill up` instead.")
    ] = False,
    as_json: Json = False,
) -> None:
    """What is in service, how far each model has come, and what it waits for."""
    from tidemill.cycle.intervene import newest_report

    settings = Settings()
    if services:
        from tidemill.cli.up import table

        table.show(table.standing(settings), as_json)
        return
    rows: list[dict[str, object]] = []
    for name in [model] if model else list(bootstrap.model_files(settings)):
        with bootstrap.open_model(name, settings) as mill:
            chain, report = mill.chain(), newest_report(mill)
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
                    **_freshness(mill),
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


def _freshness(mill: "ModelContext") -> dict[str, object]:
    """How far the model is behind, or why that cannot be known."""
    from tidemill.cycle.due import compute_backlog, freshness

    if mill.chain().head is None:  # and nothing is to be planned by a look
        return {"fresh": None, "lag": None, "freshness": "no model yet"}
    try:
        found = freshness(mill, compute_backlog(mill))
    except TidemillError as error:
        unknown = f"unknown: {type(error).__name__}"
        return {"fresh": None, "lag": None, "freshness": unknown}
    told = f"{'yes' if found.fresh else 'STALE'}, {found.lag_ms / 1000:.0f} s behind"
    return {"fresh": found.fresh, "lag": found.lag_ms / 1000, "freshness": told}


def history(model: ModelName, as_json: Json = False) -> None:
    """Every deployment of a model, as the ledger has it; void entries are marked."""
    with bootstrap.open_model(model, Settings()) as mill:
        chain = mill.chain()
    if as_json:
        print_json([standing.entry for standing in chain.entries])
        return
    print_table(
        ["entry", "kind", "as of", "digest", "by", "why"],
        [
            [s.entry.seq, s.entry.kind, s.entry.as_of, s.entry.digest[:16], s.entry.actor, s.entry.reason]
            for s in chain.entries
        ],
    )
    for void in chain.invalid_records:
        console.print(f"void at offset {void.offset}: {void.reason}")


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
    from tidemill.cycle.archive import ModelRepository
    from tidemill.cycle.recompute import recompute as make_again
    from tidemill.cycle.verify import verify as check_all

    settings = Settings()
    with bootstrap.local_databases(settings), bootstrap.open_model(model, settings) as mill:
        verified = check_all(mill)
        verified.findings.extend(_record(mill, repair))
        if recompute:
            with (
                tempfile.TemporaryDirectory(prefix="tidemill-verify-") as folder,
                console.status("making everything again") as shown,
            ):
                scratch = ModelRepository(FileStore(Path(folder)), model)
                make_again(
                    mill, scratch, verified, lambda window: shown.update(f"making {window} again")
                )
    if as_json:
        print_json(verified)
    else:
        console.print(
            f"{model}: {verified.plans} plans, {verified.batches} batches, "
            f"{verified.candidates} candidates, {verified.reports} reports, "
            f"{verified.entries} ledger entries checked"
            + (f", {verified.recomputed} windows made again." if recompute else ".")
        )
        if verified.pruned:
            console.print(
                f"`keep_windows` has pruned batches and models up to {verified.pruned}"
                + (", after which making again begins." if recompute else ".")
            )
        if verified.taken_as_archived:
            console.print(
                f"The log no longer holds {len(verified.taken_as_archived)} of the batches, which were taken "
                f"as archived: {', '.join(verified.taken_as_archived)}."
            )
    if verified.findings:
        raise VerificationFailed(
            "\n".join(verified.findings),
            "Nothing was changed. `--repair` makes up for what MLflow lacks; restore anything else "
            "that is named from a backup, or ask in an issue.",
        )


def _record(mill: "ModelContext", repair: bool) -> list[str]:
    """Where MLflow's record is not what it mirrors; with `repair`, what is left of that."""
    from tidemill.cycle.record import Recorder, find_drift

    tracker = bootstrap.make_tracker(Settings())
    if tracker is None:
        return []
    try:
        found = find_drift(mill, tracker)
        if repair and list(found.descriptions):
            Recorder(mill, tracker).repair(found)
            found = find_drift(mill, tracker)
    except TrackerUnavailable as error:
        return [error.message]
    return list(found.descriptions)


COMMANDS = (check, status, history, verify)
