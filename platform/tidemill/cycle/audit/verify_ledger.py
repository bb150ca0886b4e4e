"""Verify the ledger: compare its topic with the copies and the adoptions in the store."""

from collections.abc import Iterator

from tidemill.core import canonical
from tidemill.core.ledger import Chain
from tidemill.cycle.names import adoption_name
from tidemill.cycle.repository import ModelRepository


def ledger_differences(repository: ModelRepository, chain: Chain) -> Iterator[str]:
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
