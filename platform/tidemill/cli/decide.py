"""Decisions of a person: close, skip, rollback, approve, adopt."""

from typing import Annotated

import typer

from tidemill import bootstrap
from tidemill.cli.options import By, Json, ModelName, Why, me, tell
from tidemill.cycle import intervene
from tidemill.settings import Settings

_BY: By = me()


def close(
    model: ModelName,
    through: Annotated[str, typer.Option("--through", help="The last window to close.")],
    by: By = _BY,
    as_json: Json = False,
) -> None:
    """Say that a stream has ended: close every window through this one."""
    with bootstrap.open_model(model, Settings(), by=by) as mill:
        plan = intervene.close(mill, mill.spec.calendar.window(through), by)
    tell(plan, f"{model}: closed through {plan.window}, {plan.offset_count} offsets in it.", as_json)


def skip(
    model: ModelName,
    window: Annotated[str, typer.Argument(metavar="WINDOW", help="The window's key.")],
    why: Why,
    by: By = _BY,
    as_json: Json = False,
) -> None:
    """Leave a window out that cannot be read or must not be learned."""
    with bootstrap.open_model(model, Settings(), by=by) as mill:
        manifest = intervene.skip(mill, mill.spec.calendar.window(window), by, why)
    tell(manifest, f"{model}: window {window} is skipped, {manifest.gaps} offsets in it.", as_json)


def rollback(
    model: ModelName,
    why: Why,
    to: Annotated[str | None, typer.Option("--to", help="A digest that was deployed.")] = None,
    by: By = _BY,
    as_json: Json = False,
) -> None:
    """Put an earlier model back into service; without --to, the gate's baseline."""
    with bootstrap.open_model(model, Settings(), by=by) as mill:
        entry = intervene.rollback(mill, to, by, why)
    tell(
        entry, f"{model}: {entry.digest} is in service again by ledger entry {entry.seq}.", as_json
    )


def approve(
    model: ModelName,
    digest: Annotated[str | None, typer.Argument(metavar="[DIGEST]")] = None,
    why: Why = "approved",
    by: By = _BY,
    as_json: Json = False,
) -> None:
    """Put a candidate into service that awaits approval; without DIGEST, the newest such."""
    with bootstrap.open_model(model, Settings(), by=by) as mill:
        entry = intervene.approve(mill, digest, by, why)
    tell(entry, f"{model}: {entry.digest} is in service by ledger entry {entry.seq}.", as_json)


def adopt(
    model: ModelName,
    first: Annotated[str, typer.Option("--from", help="The first window to learn so.")],
    why: Why,
    by: By = _BY,
    as_json: Json = False,
) -> None:
    """Go on by a changed learning spec, or on another topic, from the first unplanned window."""
    from tidemill.cycle.adopt import adopt as go_on

    with bootstrap.open_model(model, Settings(), by=by, exclusive=True) as mill:
        done = go_on(mill, mill.spec.calendar.window(first), by, why)
    tell(
        done,
        f"{model}: from {done.window} on it goes by line {done.lineage[:12]}, epoch {done.epoch} on "
        f"topic {done.topic}, as ledger entry {done.seq} says; nothing changes for servers.",
        as_json,
    )


COMMANDS = (close, skip, rollback, approve, adopt)
