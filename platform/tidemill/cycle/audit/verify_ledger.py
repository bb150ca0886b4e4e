"""Verify the ledger: compare its topic with the copies and the adoptions in the store."""

from collections.abc import Iterator

from tidemill.core import canonical
from tidemill.core.ledger import Chain
from tidemill.cycle.audit.verification import Verification
from tidemill.cycle.names import LEDGER, LEDGER_TOPIC, adoption_name
from tidemill.cycle.repository import ModelRepository


def check_ledger(verification: Verification) -> None:
    """The topic holds the copied entries in the same order, and their models exist."""
    copies = [name for name in verification.repository.names(LEDGER) if name != LEDGER_TOPIC]
    verification.accounted_names.update([*copies, LEDGER_TOPIC])
    chain = verification.ctx.chain()
    topic_identity = verification.repository.ledger_topic()
    if topic_identity is not None and topic_identity != verification.ctx.ledger.identity():
        verification.add_finding(
            f"The ledger's entries were in topic {topic_identity[1]} of cluster "
            f"{topic_identity[0]}, which is not the current one."
        )
    verification.report.entries = len(chain.entries)
    verification.report.findings.extend(_differences(verification.repository, chain))
    verification.accounted_names.update(
        adoption_name(number) for number, _ in verification.repository.adoptions()
    )
    for valid_entry in chain.entries:
        verification.check_bundle(valid_entry.entry.digest, f"ledger entry {valid_entry.entry.seq}")


def _differences(repository: ModelRepository, chain: Chain) -> Iterator[str]:
    """One sentence per entry that differs from its copy, and per adoption without an entry."""
    for seq in range(max(repository.last_entry_seq() + 1, len(chain.entries))):
        yield from _entry_differences(repository, chain, seq)
    adoption_hashes = {v.entry.evidence for v in chain.entries if v.entry.kind == "adopt"}
    for number, adoption in repository.adoptions():
        if repository.hash(adoption_name(number)) not in adoption_hashes:
            yield f"The adoption from window {adoption.window} on has no ledger entry."


def _entry_differences(repository: ModelRepository, chain: Chain, seq: int) -> Iterator[str]:
    """Compare one entry in the topic with its copy in the store."""
    copy = repository.entry(seq)
    if seq < len(chain.entries):
        if copy is None:
            yield f"Ledger entry {seq} is in the topic, but was never copied."
        elif copy != chain.entries[seq].value:
            yield f"Ledger entry {seq} differs between the topic and its copy."
        return
    if copy is None:
        yield f"Ledger entry {seq} is neither in the topic nor in the store."
        return
    invalid_record = next(
        (v for v in chain.invalid_records if v.hash == canonical.digest(copy)), None
    )
    status = "is missing in the topic"
    if invalid_record is not None:
        status = (
            f"is no longer valid in the topic: at offset {invalid_record.offset}, "
            f"{invalid_record.reason}"
        )
    yield f"Ledger entry {seq} {status}; the store has its copy."
