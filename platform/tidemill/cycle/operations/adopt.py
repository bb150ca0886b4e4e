"""Adopt: continue with another learning spec or topic, from the first unplanned window on."""

from dataclasses import dataclass, replace

from tidemill.core import canonical
from tidemill.core.errors import OperationNotAllowed, PredecessorMissing
from tidemill.core.ledger import Chain, Entry
from tidemill.core.plans import Plan
from tidemill.core.records import Adoption, Lineage
from tidemill.core.windows import Window
from tidemill.cycle.context import ModelContext
from tidemill.cycle.ledger import append_entry, read_chain
from tidemill.cycle.operations.adoption_checks import (
    Change,
    check_completed,
    check_models,
    check_window,
    detect_change,
)
from tidemill.cycle.planning.plan import plan_initial
from tidemill.cycle.planning.topic_binding import verified_topic
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
    first = ctx.records.first_unplanned_window()
    previous = _previous_plan(ctx, first)
    change = detect_change(ctx, first, previous)
    if not change:
        return _existing_adoption(ctx, window)
    check_window(ctx, window, first)
    check_completed(ctx, first)
    check_models(ctx, first)
    if change.topic_changed:
        ctx.repository.clear_observations()
    number = max((n for n, _ in ctx.repository.adoptions()), default=0) + 1
    proposed = _proposed(ctx, first, previous, change, actor, reason)
    return _commit(ctx, first, number, proposed, change)


def _previous_plan(ctx: ModelContext, first: Window) -> Plan:
    last = ctx.spec.calendar.before(first)
    plan = ctx.repository.plan(last.key) if last else None
    return plan or plan_initial(ctx)


def _existing_adoption(ctx: ModelContext, window: Window) -> AdoptionResult:
    """The adoption in effect from this window on. Raises `OperationNotAllowed` without one."""
    for number, adoption in reversed(list(ctx.repository.adoptions())):
        if adoption.window == window.key and ctx.records.took_effect(number, adoption):
            return _result(ctx, number, adoption, Change(set(), False))
    raise OperationNotAllowed(
        f"Model {ctx.model} already uses the learning spec and the topic of defs.yaml.",
        "There is nothing to adopt.",
    )


def _proposed(
    ctx: ModelContext, first: Window, previous: Plan, change: Change, actor: str, reason: str
) -> Adoption:
    topic = verified_topic(ctx, None)
    lineage = ctx.records.lineage(first)
    if change.keys:
        parent = ctx.records.predecessor(first).digest
        learning_spec = {**lineage.learning_spec, **ctx.learning_spec()}
        lineage = Lineage(learning_spec, parent, first.key)
    number = ctx.records.adoption_number(first)
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
    ctx: ModelContext, first: Window, number: int, proposed: Adoption, change: Change
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
    if committed != adoption or not ctx.records.took_effect(number, committed):
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


def _result(ctx: ModelContext, number: int, adoption: Adoption, change: Change) -> AdoptionResult:
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
