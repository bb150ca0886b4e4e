"""Decisions of a person: close, skip, rollback, approve, adopt."""

from typing import Annotated

import typer

from tidemill import bootstrap
from tidemill.cli.options import Actor, Json, ModelName, Reason, current_user, print_result
from tidemill.cycle import manual_actions
from tidemill.settings import Settings

_DEFAULT_ACTOR: Actor = current_user()


def close(
    model: ModelName,
    through: Annotated[str, typer.Option("--through", help="The last window to close.")],
    actor: Actor = _DEFAULT_ACTOR,
    as_json: Json = False,
) -> None:
    """Say that a stream has ended: close every window through this one."""
    with bootstrap.open_model(model, Settings(), actor=actor) as ctx:
        plan = manual_actions.close(ctx, ctx.spec.calendar.window(through), actor)
    print_result(
        plan, f"{model}: closed through {plan.window}, {plan.offset_count} offsets in it.", as_json
    )


def skip(
    model: ModelName,
    window: Annotated[str, typer.Argument(metavar="WINDOW", help="The window's key.")],
    reason: Reason,
    actor: Actor = _DEFAULT_ACTOR,
    as_json: Json = False,
) -> None:
    """Leave a window out that cannot be read or must not be learned."""
    with bootstrap.open_model(model, Settings(), actor=actor) as ctx:
        manifest = manual_actions.skip(ctx, ctx.spec.calendar.window(window), actor, reason)
    print_result(
        manifest, f"{model}: window {window} is skipped, {manifest.gaps} offsets in it.", as_json
    )


def rollback(
    model: ModelName,
    reason: Reason,
    digest: Annotated[str | None, typer.Option("--to", help="A digest that was deployed.")] = None,
    actor: Actor = _DEFAULT_ACTOR,
    as_json: Json = False,
) -> None:
    """Put an earlier model back into service; without --to, the gate's baseline."""
    with bootstrap.open_model(model, Settings(), actor=actor) as ctx:
        entry = manual_actions.rollback(ctx, digest, actor, reason)
    print_result(
        entry, f"{model}: {entry.digest} is in service again by ledger entry {entry.seq}.", as_json
    )


def approve(
    model: ModelName,
    digest: Annotated[str | None, typer.Argument(metavar="[DIGEST]")] = None,
    reason: Reason = "approved",
    actor: Actor = _DEFAULT_ACTOR,
    as_json: Json = False,
) -> None:
    """Put a candidate into service that awaits approval; without DIGEST, the newest such."""
    with bootstrap.open_model(model, Settings(), actor=actor) as ctx:
        entry = manual_actions.approve(ctx, digest, actor, reason)
    print_result(
        entry, f"{model}: {entry.digest} is in service by ledger entry {entry.seq}.", as_json
    )


def adopt(
    model: ModelName,
    first: Annotated[str, typer.Option("--from", help="The first window to learn so.")],
    reason: Reason,
    actor: Actor = _DEFAULT_ACTOR,
    as_json: Json = False,
) -> None:
    """Go on by a changed learning spec, or on another topic, from the first unplanned window."""
    from tidemill.cycle.adopt import adopt as go_on

    with bootstrap.open_model(model, Settings(), actor=actor, exclusive=True) as ctx:
        result = go_on(ctx, ctx.spec.calendar.window(first), actor, reason)
    print_result(
        result,
        f"{model}: from {result.window} on it goes by line {result.lineage[:12]}, epoch {result.epoch} on "
        f"topic {result.topic}, as ledger entry {result.seq} says; nothing changes for servers.",
        as_json,
    )


COMMANDS = (close, skip, rollback, approve, adopt)
