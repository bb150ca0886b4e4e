"""Verify the ledger: hold its topic against what the store has copied of it and rests on it."""

from collections.abc import Iterator

from tidemill.core import canonical
from tidemill.core.ledger import Chain
from tidemill.cycle.lineage import adoptions
from tidemill.cycle.repository import ModelRepository, adoption_name


def ledger_differences(repository: ModelRepository, chain: Chain) -> Iterator[str]:
    """A sentence for each entry that is not as it was copied, and each adoption without one."""
    for seq in range(max(repository.last_entry_seq() + 1, len(chain.entries))):
        yield from _entry_differences(repository, chain, seq)
    adoption_hashes = {s.entry.evidence for s in chain.entries if s.entry.kind == "adopt"}
    for number, adoption in adoptions(repository):
        if repository.hash(adoption_name(number)) not in adoption_hashes:
            yield f"The adoption from window {adoption.window} on is in no ledger entry."


def _entry_differences(repository: ModelRepository, chain: Chain, seq: int) -> Iterator[str]:
    """One entry in the topic against its copy in the store."""
    copy = repository.entry(seq)
    if seq < len(chain.entries):
        if copy is None:
            yield f"Ledger entry {seq} stands in the topic, but was never copied."
        elif copy != chain.entries[seq].value:
            yield f"Ledger entry {seq} differs between the topic and its copy."
        return
    if copy is None:
        yield f"Ledger entry {seq} is neither in the topic nor in the store."
        return
    invalid_record = next(
        (v for v in chain.invalid_records if v.hash == canonical.digest(copy)), None
    )
    status = "is gone from the topic"
    if invalid_record is not None:
        status = f"no longer stands in the topic: at offset {invalid_record.offset} {invalid_record.reason}"
    yield f"Ledger entry {seq} {status}; the store has its copy."
