"""Adopt: go on by another learning spec, or on another topic, from the first unplanned window."""

from dataclasses import dataclass, replace

from tidemill.core import canonical
from tidemill.core.errors import (
    FeatureSkew,
    LogTruncated,
    PredecessorMissing,
    OperationNotAllowed,
    TopicRecreated,
)
from tidemill.core.ledger import Chain, Entry
from tidemill.core.plans import Plan
from tidemill.core.records import Adoption, Lineage
from tidemill.core.windows import Window
from tidemill.cycle.attach import attach, topic_of
from tidemill.cycle.deploy import append, outstanding, read_chain
from tidemill.cycle.intervene import newest_report
from tidemill.cycle.lines import (
    adoptable,
    adopted,
    adoptions,
    differing,
    in_time,
    initial_of,
    line_of,
    unplanned,
)
from tidemill.cycle.mill import Mill
from tidemill.cycle.plan import plan_initial
from tidemill.cycle.update import candidate_of
from tidemill.failpoints import reached


@dataclass(frozen=True)
class Adopted:
    """What a model goes on by from `window` on, and the ledger entry that says so.

    `learning` names the keys of the learning spec that changed; `moved` says whether the plans from
    here on are made on another topic, or on one that lost records. Both are as the adoption before
    left them where it is only told again.
    """

    model: str
    window: str
    number: int
    line: str
    learning: tuple[str, ...]
    moved: bool
    topic: str
    epoch: int
    seq: int
    by: str
    why: str


@dataclass(frozen=True)
class _Change:
    """In what the model, as it is defined now, differs from the way it would go on."""

    keys: set[str]
    moved: bool

    def __bool__(self) -> bool:
        return self.moved or bool(self.keys)


def adopt(mill: Mill, window: Window, by: str, why: str) -> Adopted:
    """Let the model go on as it is defined now, from `window` on; repeated, a no-op.

    The entry comes into the ledger first, with the digest in service; the adoption's record, which
    is the commit, after it. A crash between leaves everything as it was, and a repeat finishes it.
    Raises `Refused` where the window is not the first unplanned one, one before it is not
    done, nothing has changed, or only a model of a new name could learn so; `FeatureSkew` where a
    model that is still scored cannot be; what `attach` and `read_chain` raise.
    """
    if read_chain(mill).head is None:
        raise PredecessorMissing(
            f"Model {mill.model} has no initial model in service, so there is nothing to go on.",
            f"Run `tidemill backfill {mill.model}`, which makes it.",
        )
    first = unplanned(mill)
    before = _plan_before(mill, first)
    change = _change(mill, first, before)
    if not change:
        return _again(mill, window)
    _check_window(mill, window, first)
    _check_done(mill, first)
    _check_models(mill, first)
    if change.moved:
        mill.archive.forget_ends()
    number = max((n for n, _ in adoptions(mill.archive)), default=0) + 1
    return _commit(mill, first, number, _wanted(mill, first, before, change, by, why), change)


def _plan_before(mill: Mill, first: Window) -> Plan:
    last = mill.spec.calendar.before(first)
    found = mill.archive.plan(last.key) if last else None
    return found or plan_initial(mill)


def _change(mill: Mill, first: Window, before: Plan) -> _Change:
    was = line_of(mill, first).learning_spec
    keys = differing(was, {**was, **mill.learning()})
    if not adoptable(keys):
        raise OperationNotAllowed(
            f"Model {mill.model} would learn something else, or begin otherwise: "
            f"{', '.join(f'`{key}`' for key in sorted(keys))} differ.",
            "Undo the change in defs.yaml, or define a model of a new name.",
        )
    try:
        attach(mill, before, first)
    except (TopicRecreated, LogTruncated):
        return _Change(keys, True)
    return _Change(keys, False)


def _again(mill: Mill, window: Window) -> Adopted:
    """The adoption from this window on that stands. Raises `Refused` where there is none."""
    for number, adoption in reversed(list(adoptions(mill.archive))):
        if adoption.window == window.key and in_time(mill.archive, number, adoption):
            return _told(mill, number, adoption, _Change(set(), False))
    raise OperationNotAllowed(
        f"Model {mill.model} learns by the spec and from the topic that defs.yaml names.",
        "There is nothing to adopt.",
    )


def _check_window(mill: Mill, window: Window, first: Window) -> None:
    if window == first:
        return
    early = f"Window {window} of model {mill.model} is planned already"
    late = f"Windows of model {mill.model} before {window} are not planned"
    raise OperationNotAllowed(
        f"{early if window.start < first.start else late}; the first that is not is {first}.",
        f"Adopt from there: `tidemill adopt {mill.model} --from {first} --why REASON`.",
    )


def _check_done(mill: Mill, first: Window) -> None:
    """Every window before is reported, and what its report asks for is in the ledger."""
    calendar, report = mill.spec.calendar, newest_report(mill)
    last = calendar.before(first)
    done = calendar.window(report.window) if report else None
    if last is None or (done == last and not outstanding(mill, last)):
        return
    left = last if done == last else calendar.after(done) if done else calendar.first
    raise OperationNotAllowed(
        f"Windows {left} to {last} of model {mill.model} are planned, but not done.",
        f"Finish them first, as they were begun: undo the change in defs.yaml, run `tidemill "
        f"backfill {mill.model} --from {left} --to {last}` (a window that cannot be read is left "
        f"out by `tidemill skip {mill.model} WINDOW --why REASON` before that), then change it "
        "again and adopt.",
    )


def _check_models(mill: Mill, first: Window) -> None:
    """Every model that the next report scores can be loaded, with its own feature function."""
    report, chain = newest_report(mill), read_chain(mill)
    digests = {initial_of(mill).digest, _parent(mill, first)}
    if chain.head is not None:
        digests.add(chain.head.entry.digest)
    if report is not None:
        digests |= {report.state.champion, report.state.baseline}
    for digest in sorted(digests):
        try:
            mill.load(digest)
        except FeatureSkew as skew:
            raise FeatureSkew(
                skew.message,
                "It is still scored and served, through its own function. Leave that module as it "
                "was, and put the new function into a module of another name (`features: "
                "OTHER:function`).",
            ) from skew


def _parent(mill: Mill, first: Window) -> str:
    last = mill.spec.calendar.before(first)
    return candidate_of(mill, last).digest if last else initial_of(mill).digest


def _wanted(
    mill: Mill, first: Window, before: Plan, change: _Change, by: str, why: str
) -> Adoption:
    topic, line = topic_of(mill, None), line_of(mill, first)
    if change.keys:
        line = Lineage({**line.learning_spec, **mill.learning()}, _parent(mill, first), first.key)
    known = adopted(mill.archive, first)
    pending = mill.archive.adoption(known) if known > before.adoption else None
    return Adoption(
        model=mill.model,
        window=first.key,
        lineage=line,
        topic=topic.name,
        cluster_id=topic.cluster_id,
        topic_id=topic.topic_id,
        epoch=(pending or before).epoch + change.moved,
        actor=by,
        reason=why,
    )


def _commit(mill: Mill, first: Window, number: int, wanted: Adoption, change: _Change) -> Adopted:
    """Put the entry into the ledger, then the record into the store."""
    last = mill.spec.calendar.before(first)

    def entry(chain: Chain) -> Entry | None:
        if chain.head is None or _in_ledger(chain, wanted) is not None:
            return None
        seq, prev = chain.next_position
        return Entry(
            model=mill.model,
            seq=seq,
            kind="adopt",
            digest=chain.head.entry.digest,
            as_of=last.key if last else None,
            as_of_ms=last.end if last else None,
            verdict=None,
            evidence=_hash(wanted),
            actor=wanted.actor,
            reason=wanted.reason,
            prev=prev,
        )

    append(mill, entry)
    adoption = _in_ledger(read_chain(mill), wanted) or wanted
    standing = mill.archive.commit_adoption(number, adoption)
    reached("adopt.committed")
    if standing != adoption or not in_time(mill.archive, number, standing):
        raise OperationNotAllowed(
            f"Somebody else adopted for model {mill.model}, or planned {first}, at the same time.",
            "Look at `tidemill history`, and run the command again.",
        )
    return _told(mill, number, standing, change)


def _hash(adoption: Adoption) -> str:
    """The sha256 of the adoption's record, as it lies in the store."""
    return canonical.digest(canonical.with_checksum(canonical.encode(adoption)))


def _in_ledger(chain: Chain, wanted: Adoption) -> Adoption | None:
    """This adoption as the ledger has it already, by whoever decided it first; None: it has not."""
    for standing in reversed(chain.entries):
        told = replace(wanted, by=standing.entry.actor, why=standing.entry.reason)
        if standing.entry.kind == "adopt" and standing.entry.evidence == _hash(told):
            return told
    return None


def _told(mill: Mill, number: int, adoption: Adoption, change: _Change) -> Adopted:
    hash_ = _hash(adoption)
    entries = (s.entry for s in mill.chain().entries if s.entry.evidence == hash_)
    return Adopted(
        model=mill.model,
        window=adoption.window,
        number=number,
        line=canonical.digest_of(adoption.lineage),
        learning=tuple(sorted(change.keys)),
        moved=change.moved,
        topic=adoption.topic,
        epoch=adoption.epoch,
        seq=next((entry.seq for entry in entries), -1),
        by=adoption.actor,
        why=adoption.reason,
    )
