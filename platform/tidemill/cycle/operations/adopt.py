"""Adopt: continue with another learning spec or topic, from the first unplanned window on."""

from dataclasses import dataclass, replace

from tidemill.core import canonical
from tidemill.core.errors import (
    FeatureSkew,
    LogTruncated,
    OperationNotAllowed,
    PredecessorMissing,
    TopicRecreated,
)
from tidemill.core.ledger import Chain, Entry
from tidemill.core.plans import Plan
from tidemill.core.records import Adoption, Lineage
from tidemill.core.windows import Window
from tidemill.cycle.context import ModelContext
from tidemill.cycle.ledger import append_entry, has_pending_deployment, read_chain
from tidemill.cycle.lineage import (
    adoptable,
    adoption_number,
    adoptions,
    differing_keys,
    first_unplanned_window,
    lineage_for,
    require_initial_model,
    took_effect,
)
from tidemill.cycle.operations.manual_actions import newest_report
from tidemill.cycle.planning.plan import plan_initial
from tidemill.cycle.planning.topic_binding import bind_topic, verified_topic
from tidemill.cycle.steps.update import require_candidate
from tidemill.failpoints import failpoint


@dataclass(frozen=True)
class AdoptionResult:
    """The lineage and topic that a model continues with from `window` on, and the ledger entry.

    `changed_keys` are the keys of the learning spec that changed. `topic_changed`: from here on,
    plans are made on another topic, or on one that lost records. An adoption that was in effect
    already is reported without changes: `()` and False.
    """

    model: str
    window: str
    number: int
    lineage: str
    changed_keys: tuple[str, ...]
    topic_changed: bool
    topic: str
    epoch: int
    seq: int
    actor: str
    reason: str


@dataclass(frozen=True)
class _Change:
    """How the model's current definition differs from its lineage and topic so far."""

    keys: set[str]
    topic_changed: bool

    def __bool__(self) -> bool:
        return self.topic_changed or bool(self.keys)


def adopt(ctx: ModelContext, window: Window, actor: str, reason: str) -> AdoptionResult:
    """Continue the model as it is defined now, from `window` on; a no-op if repeated.

    The entry is appended to the ledger first, with the digest in service; the adoption's record
    follows and is the commit. A crash in between changes nothing, and a repeat completes it. Raises
    `OperationNotAllowed` if the window is not the first unplanned one, an earlier one is not
    completed, nothing has changed, or the change requires a model of a new name; `FeatureSkew` if a
    model that is still scored can no longer be loaded; what `bind_topic` and `read_chain` raise.
    """
    if read_chain(ctx).head is None:
        raise PredecessorMissing(
            f"Model {ctx.model} has no initial model in service, so there is nothing to continue.",
            f"Run `tidemill backfill {ctx.model}`, which creates it.",
        )
    first = first_unplanned_window(ctx)
    previous = _previous_plan(ctx, first)
    change = _detect_change(ctx, first, previous)
    if not change:
        return _existing_adoption(ctx, window)
    _check_window(ctx, window, first)
    _check_done(ctx, first)
    _check_models(ctx, first)
    if change.topic_changed:
        ctx.repository.clear_observations()
    number = max((n for n, _ in adoptions(ctx.repository)), default=0) + 1
    return _commit(
        ctx, first, number, _proposed(ctx, first, previous, change, actor, reason), change
    )


def _previous_plan(ctx: ModelContext, first: Window) -> Plan:
    last = ctx.spec.calendar.before(first)
    plan = ctx.repository.plan(last.key) if last else None
    return plan or plan_initial(ctx)


def _detect_change(ctx: ModelContext, first: Window, previous: Plan) -> _Change:
    old_spec = lineage_for(ctx, first).learning_spec
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
        return _Change(keys, True)
    return _Change(keys, False)


def _existing_adoption(ctx: ModelContext, window: Window) -> AdoptionResult:
    """The adoption in effect from this window on. Raises `OperationNotAllowed` without one."""
    for number, adoption in reversed(list(adoptions(ctx.repository))):
        if adoption.window == window.key and took_effect(ctx.repository, number, adoption):
            return _result(ctx, number, adoption, _Change(set(), False))
    raise OperationNotAllowed(
        f"Model {ctx.model} already uses the learning spec and the topic of defs.yaml.",
        "There is nothing to adopt.",
    )


def _check_window(ctx: ModelContext, window: Window, first: Window) -> None:
    if window == first:
        return
    early = f"Window {window} of model {ctx.model} is planned already"
    late = f"Windows of model {ctx.model} before {window} are not planned"
    raise OperationNotAllowed(
        f"{early if window.start < first.start else late}; the first unplanned one is {first}.",
        f"Adopt from that window: `tidemill adopt {ctx.model} --from {first} --reason REASON`.",
    )


def _check_done(ctx: ModelContext, first: Window) -> None:
    """Every earlier window must have a report, and its deployment must not be pending."""
    calendar, report = ctx.spec.calendar, newest_report(ctx)
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


def _check_models(ctx: ModelContext, first: Window) -> None:
    """Every model that the next report scores must be loadable with its own feature function."""
    report, chain = newest_report(ctx), read_chain(ctx)
    digests = {require_initial_model(ctx).digest, _parent_digest(ctx, first)}
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


def _parent_digest(ctx: ModelContext, first: Window) -> str:
    last = ctx.spec.calendar.before(first)
    return require_candidate(ctx, last).digest if last else require_initial_model(ctx).digest


def _proposed(
    ctx: ModelContext, first: Window, previous: Plan, change: _Change, actor: str, reason: str
) -> Adoption:
    topic, lineage = verified_topic(ctx, None), lineage_for(ctx, first)
    if change.keys:
        lineage = Lineage(
            {**lineage.learning_spec, **ctx.learning_spec()}, _parent_digest(ctx, first), first.key
        )
    number = adoption_number(ctx.repository, first)
    pending = ctx.repository.adoption(number) if number > previous.adoption else None
    return Adoption(
        model=ctx.model,
        window=first.key,
        lineage=lineage,
        topic=topic.name,
        cluster_id=topic.cluster_id,
        topic_id=topic.topic_id,
        epoch=(pending or previous).epoch + change.topic_changed,
        actor=actor,
        reason=reason,
    )


def _commit(
    ctx: ModelContext, first: Window, number: int, proposed: Adoption, change: _Change
) -> AdoptionResult:
    """Append the entry to the ledger, then commit the record to the store."""
    last = ctx.spec.calendar.before(first)

    def build_entry(chain: Chain) -> Entry | None:
        if chain.head is None or _recorded_adoption(chain, proposed) is not None:
            return None
        seq, prev = chain.next_position
        return Entry(
            model=ctx.model,
            seq=seq,
            kind="adopt",
            digest=chain.head.entry.digest,
            as_of=last.key if last else None,
            as_of_ms=last.end if last else None,
            verdict=None,
            evidence=_record_hash(proposed),
            actor=proposed.actor,
            reason=proposed.reason,
            prev=prev,
        )

    append_entry(ctx, build_entry)
    adoption = _recorded_adoption(read_chain(ctx), proposed) or proposed
    committed = ctx.repository.commit_adoption(number, adoption)
    failpoint("adopt.committed")
    if committed != adoption or not took_effect(ctx.repository, number, committed):
        raise OperationNotAllowed(
            f"Another process adopted for model {ctx.model}, or planned {first}, at the same time.",
            f"Look at `tidemill history {ctx.model}`, and run the command again.",
        )
    return _result(ctx, number, committed, change)


def _record_hash(adoption: Adoption) -> str:
    """The sha256 of the adoption's record as it is stored."""
    return canonical.digest(canonical.with_checksum(canonical.encode(adoption)))


def _recorded_adoption(chain: Chain, proposed: Adoption) -> Adoption | None:
    """The same adoption as its first writer put it into the ledger; None if it is not there."""
    for valid_entry in reversed(chain.entries):
        recorded = replace(proposed, actor=valid_entry.entry.actor, reason=valid_entry.entry.reason)
        if valid_entry.entry.kind == "adopt" and valid_entry.entry.evidence == _record_hash(
            recorded
        ):
            return recorded
    return None


def _result(ctx: ModelContext, number: int, adoption: Adoption, change: _Change) -> AdoptionResult:
    hash_ = _record_hash(adoption)
    entries = (valid.entry for valid in ctx.chain().entries if valid.entry.evidence == hash_)
    return AdoptionResult(
        model=ctx.model,
        window=adoption.window,
        number=number,
        lineage=canonical.digest_of(adoption.lineage),
        changed_keys=tuple(sorted(change.keys)),
        topic_changed=change.topic_changed,
        topic=adoption.topic,
        epoch=adoption.epoch,
        seq=next((entry.seq for entry in entries), -1),
        actor=adoption.actor,
        reason=adoption.reason,
    )
