"""What a person may decide: close a stream, skip a window, roll back, approve."""

from tidemill.core.errors import OperationNotAllowed
from tidemill.core.ledger import Chain, Entry, EntryKind
from tidemill.core.plans import Plan
from tidemill.core.records import Manifest, SkipDecision
from tidemill.core.report import Report
from tidemill.core.windows import Window
from tidemill.cycle.deploy import append, read_chain
from tidemill.cycle.extract import empty_manifest
from tidemill.cycle.mill import Mill
from tidemill.cycle.plan import plan
from tidemill.cycle.prune import refuse_pruned


def close(mill: Mill, through: Window, by: str) -> Plan:
    """Say that the stream has ended: plan every window up to `through` with the records there are.

    Windows planned before stand as they are.
    """
    return plan(mill, through, closed_by=by)


def skip(mill: Mill, window: Window, by: str, why: str) -> Manifest:
    """Commit a batch without rows that explains the window's whole range as skipped.

    Raises `Refused` where the window has a batch already.
    """
    standing = mill.archive.manifest(window.key)
    if standing is not None and standing.skipped is None:
        raise OperationNotAllowed(
            f"Window {window.key} of model {mill.model} has a batch of {standing.rows} rows.",
            "Only a window without a batch can be skipped.",
        )
    if standing is not None:
        return standing
    planned = plan(mill, window)
    return mill.archive.commit_manifest(empty_manifest(mill, planned, SkipDecision(by, why)))


def rollback(mill: Mill, to: str | None, by: str, why: str) -> Entry:
    """Put an earlier model back into service: `to`, or the gate's baseline.

    Raises `Refused` where the digest was never deployed or is in service, `ModelPruned`,
    `FeatureSkew`, `BundleUnfit`.
    """
    chain = read_chain(mill)
    newest = newest_report(mill)
    digest = to or (newest.state.baseline if newest else None)
    known = {s.entry.digest for s in chain.entries}
    if digest is None or (to is None and chain.head and chain.head.entry.digest == digest):
        raise OperationNotAllowed(
            f"The baseline of model {mill.model} is in service already.",
            f"Name the model to go back to: `tidemill rollback {mill.model} --to DIGEST`; "
            "`tidemill history` lists them.",
        )
    if digest not in known:
        refuse_pruned(mill, digest)
        raise OperationNotAllowed(
            f"{digest[:80]!r} was never deployed as model {mill.model}.",
            f"`tidemill history {mill.model}` lists the digests that were.",
        )
    return _decide(mill, "rollback", digest, by, why)


def approve(mill: Mill, digest: str | None, by: str, why: str) -> Entry:
    """Put a candidate into service that the gate holds for approval: `digest`, or the newest such.

    Raises `Refused` where there is none.
    """
    newest = newest_report(mill)
    pending = newest.state.pending if newest else None
    chosen = digest or pending
    if chosen is None:
        raise OperationNotAllowed(
            f"No candidate of model {mill.model} awaits approval.",
            "Name a digest, or wait for a window whose entry test passes (`gate.policy: manual`).",
        )
    return _decide(mill, "approve", chosen, by, why)


def newest_report(mill: Mill) -> Report | None:
    """The report of the newest window that has one."""
    names = list(mill.archive.names("reports/"))
    if not names:
        return None
    return mill.archive.report(names[-1].removeprefix("reports/").removesuffix(".json"))


def _decide(mill: Mill, kind: EntryKind, digest: str, by: str, why: str) -> Entry:
    """Prove the model and append the person's entry."""
    bundle = mill.archive.bundle(digest)
    mill.prover.prove(bundle)
    as_of = _as_of(mill, digest)

    def entry(chain: Chain) -> Entry | None:
        if chain.head is not None and chain.head.entry.digest == digest:
            return None
        seq, prev = chain.next_position
        return Entry(
            model=mill.model,
            seq=seq,
            kind=kind,
            digest=digest,
            as_of=as_of.key if as_of else None,
            as_of_ms=as_of.end if as_of else None,
            verdict=None,
            evidence=None,
            actor=by,
            reason=why,
            prev=prev,
        )

    appended = append(mill, entry)
    if appended is None:
        raise OperationNotAllowed(f"{digest} is in service already.", "Nothing needs to be done.")
    return appended


def _as_of(mill: Mill, digest: str) -> Window | None:
    """The later of the newest reported window and the newest one the model learned from."""
    newest = newest_report(mill)
    learned = mill.load(digest).window
    keys = [key for key in (newest.window if newest else None, learned) if key is not None]
    windows = [mill.spec.calendar.window(key) for key in keys]
    return max(windows, default=None)
