"""Commands for manual decisions: close, skip, rollback, approve, adopt."""

from contextlib import AbstractContextManager
from typing import Annotated

import typer

from tidemill import bootstrap
from tidemill.cli.options import Actor, Json, ModelName, Reason, current_user, print_result
from tidemill.cycle.context import ModelContext
from tidemill.cycle.operations import manual_actions
from tidemill.settings import Settings

_DEFAULT_ACTOR: Actor = current_user()


def close(
    model: ModelName,
    through: Annotated[str, typer.Option("--through", help="The last window to close.")],
    actor: Actor = _DEFAULT_ACTOR,
    as_json: Json = False,
) -> None:
    """Declare that a stream has ended: close every window up to --through."""
    with _open_model(model, actor) as ctx:
        plan = manual_actions.close(ctx, ctx.spec.calendar.window(through), actor)
    print_result(
        plan,
        f"{model}: closed through {plan.window}, which has {plan.offset_count} offsets.",
        as_json,
    )


def skip(
    model: ModelName,
    window: Annotated[str, typer.Argument(metavar="WINDOW", help="The window's key.")],
    reason: Reason,
    actor: Actor = _DEFAULT_ACTOR,
    as_json: Json = False,
) -> None:
    """Leave out a window that cannot be read or must not be learned."""
    with _open_model(model, actor) as ctx:
        manifest = manual_actions.skip(ctx, ctx.spec.calendar.window(window), actor, reason)
    print_result(
        manifest,
        f"{model}: window {window} is skipped, which has {manifest.gaps} offsets.",
        as_json,
    )


def rollback(
    model: ModelName,
    reason: Reason,
    digest: Annotated[
        str | None, typer.Option("--to", help="The digest of a model that was deployed.")
    ] = None,
    actor: Actor = _DEFAULT_ACTOR,
    as_json: Json = False,
) -> None:
    """Put an earlier model into service again; without --to, the gate's baseline."""
    with _open_model(model, actor) as ctx:
        entry = manual_actions.rollback(ctx, digest, actor, reason)
    print_result(
        entry, f"{model}: {entry.digest} is in service again by ledger entry {entry.seq}.", as_json
    )


def approve(
    model: ModelName,
    reason: Reason,
    digest: Annotated[str | None, typer.Argument(metavar="DIGEST")] = None,
    actor: Actor = _DEFAULT_ACTOR,
    as_json: Json = False,
) -> None:
    """Put a candidate that awaits approval into service; without DIGEST, the newest one."""
    with _open_model(model, actor) as ctx:
        entry = manual_actions.approve(ctx, digest, actor, reason)
    print_result(
        entry, f"{model}: {entry.digest} is in service by ledger entry {entry.seq}.", as_json
    )


def adopt(
    model: ModelName,
    first: Annotated[
        str, typer.Option("--from", help="The first window to learn with the changes.")
    ],
    reason: Reason,
    actor: Actor = _DEFAULT_ACTOR,
    as_json: Json = False,
) -> None:
    """Adopt a changed learning spec, or another topic, from the first unplanned window on."""
    from tidemill.cycle.operations.adopt import adopt as adopt_changes

    with _open_model(model, actor, exclusive=True) as ctx:
        result = adopt_changes(ctx, ctx.spec.calendar.window(first), actor, reason)
    print_result(
        result,
        f"{model}: from {result.window} on, lineage {result.lineage[:12]} and epoch {result.epoch} "
        f"of topic {result.topic} are used (ledger entry {result.seq}). The model in service is "
        "not changed.",
        as_json,
    )


def _open_model(
    model: str, actor: str, *, exclusive: bool = False
) -> AbstractContextManager[ModelContext]:
    settings = Settings()
    spec = bootstrap.load_spec(model, settings)
    return bootstrap.open_model(spec, settings, actor=actor, exclusive=exclusive)


COMMANDS = (close, skip, rollback, approve, adopt)
