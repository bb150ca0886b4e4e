"""A ledger brought back from its copies: the same bytes, once, and nobody else's."""

from dataclasses import replace

import pytest

from in_memory import mill_in_memory
from tidemill.adapters.memory.log import MemoryLedger, MemoryLog
from tidemill.core import canonical
from tidemill.core.errors import LedgerBroken, LedgerLost, LogUnavailable
from tidemill.core.ledger import Chain, Entry
from tidemill.core.spec import ModelSpec
from tidemill.cycle.deploy import append_entry, read_chain
from tidemill.cycle.mill import ModelContext
from tidemill.cycle.restore import restore

DIGESTS = "abcd"


def entry(chain: Chain, digest: str, by: str = "tests") -> Entry:
    seq, prev = chain.next_position
    return Entry(chain.model, seq, "deploy", digest, None, None, None, None, by, "why not", prev)


def ledger_of(mill: ModelContext) -> MemoryLedger:
    assert isinstance(mill.ledger, MemoryLedger)
    return mill.ledger


@pytest.fixture
def mill() -> ModelContext:
    """A model with four entries, each copied."""
    windows = {"start": "2026-01-01"}
    told = {"topic": "events", "fields": {"x": "number"}, "label": "y", "windows": windows}
    made = mill_in_memory(ModelSpec.model_validate(told), MemoryLog(), lambda: 0)
    for digest in DIGESTS:
        append_entry(made, lambda chain, digest=digest: entry(chain, digest))
    return made


def lost(mill: ModelContext) -> list[bytes]:
    """Recreate the topic, as a process sees it that comes later; what stood in it."""
    values = [record.value for record in mill.ledger.read()]
    ledger_of(mill).recreate()
    ledger_of(mill).reattach()
    return values


def values(mill: ModelContext) -> list[bytes]:
    return [record.value for record in mill.ledger.read()]


def test_a_ledger_that_is_whole_is_left_alone(mill: ModelContext) -> None:
    before = values(mill)
    done = restore(mill)
    assert (done.entries, done.appended, done.moved) == (4, 0, False)
    assert values(mill) == before


def test_a_model_without_entries_has_nothing_to_bring_back(mill: ModelContext) -> None:
    other = replace(mill, model="n", archive=replace(mill.repository, model="n"))
    assert restore(other).entries == 0
    assert len(values(mill)) == 4


def test_a_lost_ledger_comes_back_byte_for_byte_and_writers_go_on(mill: ModelContext) -> None:
    before = lost(mill)
    with pytest.raises(LedgerLost):
        read_chain(mill)
    done = restore(mill)
    assert (done.entries, done.appended, done.moved) == (4, 4, True)
    assert (done.cluster_id, done.topic_id) == mill.ledger.identity() == mill.repository.ledger_topic()
    assert values(mill) == before
    assert append_entry(mill, lambda chain: entry(chain, "e") if len(chain.entries) == 4 else None)
    assert restore(mill).appended == 0


def test_each_model_of_a_shared_topic_is_brought_back_by_itself(mill: ModelContext) -> None:
    other = replace(mill, model="n", archive=replace(mill.repository, model="n"))
    append_entry(other, lambda chain: entry(chain, "z"))
    before = lost(mill)
    assert restore(other).appended == 1
    with pytest.raises(LedgerLost):
        read_chain(mill)
    assert restore(mill).appended == 4
    assert values(mill) == [before[-1], *before[:-1]]
    assert len(read_chain(mill).entries) == 4
    assert len(read_chain(other).entries) == 1


def test_an_entry_whose_acknowledgement_is_lost_is_not_appended_twice(mill: ModelContext) -> None:
    before = lost(mill)
    ledger_of(mill).lose_acknowledgement = True
    assert restore(mill).entries == 4
    assert values(mill) == before


def test_an_unreachable_ledger_is_named_and_asked_again_later(mill: ModelContext) -> None:
    before = lost(mill)
    ledger_of(mill).unavailable = True
    with pytest.raises(LogUnavailable):
        restore(mill)
    ledger_of(mill).unavailable = False
    restore(mill)
    assert values(mill) == before


def test_entries_that_others_made_meanwhile_are_named_and_nothing_is_appended(mill: ModelContext) -> None:
    before = lost(mill)
    mill.ledger.append("m", before[0])
    mill.ledger.append("m", canonical.encode(entry(mill.chain(), "x" * 64, "mallory")))
    there = values(mill)
    with pytest.raises(LedgerBroken, match=r"entry 1 .*offset 1, deploy of x{64} by mallory"):
        restore(mill)
    assert values(mill) == there
    with pytest.raises(LedgerLost):
        read_chain(mill)


def test_entries_that_go_on_from_the_copies_are_taken_as_they_are(mill: ModelContext) -> None:
    """Somebody restored it before and went on: their entries name ours."""
    for value in lost(mill):
        mill.ledger.append("m", value)
    mill.ledger.append("m", canonical.encode(entry(mill.chain(), "e")))
    assert restore(mill).entries == 5
    assert len(read_chain(mill).entries) == 5
    assert mill.repository.entry(4) == values(mill)[4]


@pytest.mark.parametrize("seq", [0, 2])
@pytest.mark.parametrize("damage", ["missing", "edited"])
def test_copies_that_are_no_chain_are_refused_before_anything_is_appended(
    mill: ModelContext, seq: int, damage: str
) -> None:
    lost(mill)
    name = f"m/ledger/{seq:08d}.json"
    copy = mill.repository.store.get(name) or b""
    mill.repository.store.delete(name)
    if damage == "edited":
        mill.repository.store.put(name, copy.replace(b"why not", b"because"))
    with pytest.raises(LedgerBroken, match=rf"(entries {seq} and|entry {seq} of)"):
        restore(mill)
    assert values(mill) == []
