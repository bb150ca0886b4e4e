"""Adoption checks: what has changed in a model's definition, and whether it can be adopted now."""

from dataclasses import dataclass

from tidemill.core.errors import FeatureSkew, LogTruncated, OperationNotAllowed, TopicRecreated
from tidemill.core.plans import Plan
from tidemill.core.windows import Window
from tidemill.cycle.context import ModelContext
from tidemill.cycle.ledger import has_pending_deployment, read_chain
from tidemill.cycle.lineage import adoptable, differing_keys
from tidemill.cycle.planning.topic_binding import bind_topic


@dataclass(frozen=True)
class Change:
    """How the model's current definition differs from its lineage and topic so far."""

    keys: set[str]
    topic_changed: bool

    def __bool__(self) -> bool:
        return self.topic_changed or bool(self.keys)


def detect_change(ctx: ModelContext, first: Window, previous: Plan) -> Change:
    """How the definition differs from that of the window `first`, which follows this plan.

    Raises `OperationNotAllowed` if the change requires a model of a new name.
    """
    old_spec = ctx.records.lineage(first).learning_spec
    keys = differing_keys(old_spec, {**old_spec, **ctx.learning_spec()})
    if not adoptable(keys):
        raise OperationNotAllowed(
            f"The spec of model {ctx.model} has changed in keys that cannot be adopted: "
            f"{', '.join(f'`{key}`' for key in sorted(keys))} differ.",
            "Undo the change in defs.yaml, or define a model of a new name.",
        )
    try:
        bind_topic(ctx, previous, first)
    except (TopicRecreated, LogTruncated):
        return Change(keys, True)
    return Change(keys, False)


def check_window(ctx: ModelContext, window: Window, first: Window) -> None:
    """The window must be the first unplanned one. Raises `OperationNotAllowed`."""
    if window == first:
        return
    early = f"Window {window} of model {ctx.model} is planned already"
    late = f"Windows of model {ctx.model} before {window} are not planned"
    raise OperationNotAllowed(
        f"{early if window.start < first.start else late}; the first unplanned one is {first}.",
        f"Adopt from that window: `tidemill adopt {ctx.model} --from {first} --reason REASON`.",
    )


def check_completed(ctx: ModelContext, first: Window) -> None:
    """Every earlier window must have a report, and its deployment must not be pending.

    Raises `OperationNotAllowed`.
    """
    calendar = ctx.spec.calendar
    report = ctx.records.newest_report()
    last = calendar.before(first)
    done = calendar.window(report.window) if report else None
    if last is None or (done == last and not has_pending_deployment(ctx, last)):
        return
    first_unfinished = last if done == last else calendar.after(done) if done else calendar.first
    raise OperationNotAllowed(
        f"Windows {first_unfinished} to {last} of model {ctx.model} are planned, but not "
        "completed.",
        "Complete them with the old definition first: undo the change in defs.yaml, run `tidemill "
        f"backfill {ctx.model} --from {first_unfinished} --to {last}` (if a window cannot be "
        f"read, run `tidemill skip {ctx.model} WINDOW --reason REASON` before that), then apply "
        "the change again and adopt.",
    )


def check_models(ctx: ModelContext, first: Window) -> None:
    """Every model that the next report scores must be loadable with its own feature function.

    Raises `FeatureSkew`.
    """
    report = ctx.records.newest_report()
    chain = read_chain(ctx)
    digests = {ctx.records.require_initial_model().digest, ctx.records.predecessor(first).digest}
    if chain.head is not None:
        digests.add(chain.head.entry.digest)
    if report is not None:
        digests |= {report.state.champion, report.state.baseline}
    for digest in sorted(digests):
        try:
            ctx.load(digest)
        except FeatureSkew as skew:
            raise FeatureSkew(
                skew.message,
                "That model is still scored and served with its own feature function. Restore its "
                "module, and put the new function into a module of another name (`features: "
                "OTHER:function`).",
            ) from skew
