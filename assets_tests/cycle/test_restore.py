"""Restoring a ledger from its copies: the same bytes, each once, and only of this model."""

from dataclasses import replace

import pytest

from cycle.memory_model import make_memory_context
from tidemill.adapters.memory import MemoryLedger, MemoryLog
from tidemill.core import canonical
from tidemill.core.errors import LedgerBroken, LedgerLost, LogUnavailable
from tidemill.core.ledger import Chain, Entry
from tidemill.core.spec import ModelSpec
from tidemill.cycle.context import ModelContext
from tidemill.cycle.ledger import append_entry, read_chain
from tidemill.cycle.operations.restore import restore

DIGESTS = "abcd"


def entry(chain: Chain, digest: str, actor: str = "tests") -> Entry:
    seq, prev = chain.next_position
    return Entry(chain.model, seq, "deploy", digest, None, None, None, None, actor, "why not", prev)


def memory_ledger(ctx: ModelContext) -> MemoryLedger:
    assert isinstance(ctx.ledger, MemoryLedger)
    return ctx.ledger


def make_spec(name: str) -> ModelSpec:
    windows = {"start": "2026-01-01"}
    attributes = {"topic": "events", "fields": {"x": "number"}, "label": "y", "windows": windows}
    return ModelSpec.create(name, attributes)


@pytest.fixture
def ctx() -> ModelContext:
    """A model with four entries, each copied."""
    model = make_memory_context(make_spec("m"), MemoryLog(), lambda: 0)
    for digest in DIGESTS:
        append_entry(model, lambda chain, digest=digest: entry(chain, digest))
    return model


def lose_topic(ctx: ModelContext) -> list[bytes]:
    """Recreate the topic, as a new process sees it; return the values that it held."""
    values = [record.value for record in ctx.ledger.read()]
    memory_ledger(ctx).recreate()
    memory_ledger(ctx).reattach()
    return values


def ledger_values(ctx: ModelContext) -> list[bytes]:
    return [record.value for record in ctx.ledger.read()]


def test_a_complete_ledger_is_unchanged(ctx: ModelContext) -> None:
    before = ledger_values(ctx)
    done = restore(ctx)
    assert (done.entries, done.appended, done.moved) == (4, 0, False)
    assert ledger_values(ctx) == before


def test_a_model_without_entries_has_nothing_to_restore(ctx: ModelContext) -> None:
    other = replace(ctx, spec=make_spec("n"), repository=replace(ctx.repository, model="n"))
    assert restore(other).entries == 0
    assert len(ledger_values(ctx)) == 4


def test_a_lost_ledger_comes_back_byte_for_byte_and_writers_go_on(ctx: ModelContext) -> None:
    before = lose_topic(ctx)
    with pytest.raises(LedgerLost):
        read_chain(ctx)
    done = restore(ctx)
    assert (done.entries, done.appended, done.moved) == (4, 4, True)
    assert (
        (done.cluster_id, done.topic_id) == ctx.ledger.identity() == ctx.repository.ledger_topic()
    )
    assert ledger_values(ctx) == before
    assert append_entry(ctx, lambda chain: entry(chain, "e") if len(chain.entries) == 4 else None)
    assert restore(ctx).appended == 0


def test_each_model_of_a_shared_topic_is_restored_separately(ctx: ModelContext) -> None:
    other = replace(ctx, spec=make_spec("n"), repository=replace(ctx.repository, model="n"))
    append_entry(other, lambda chain: entry(chain, "z"))
    before = lose_topic(ctx)
    assert restore(other).appended == 1
    with pytest.raises(LedgerLost):
        read_chain(ctx)
    assert restore(ctx).appended == 4
    assert ledger_values(ctx) == [before[-1], *before[:-1]]
    assert len(read_chain(ctx).entries) == 4
    assert len(read_chain(other).entries) == 1


def test_an_entry_whose_acknowledgement_is_lost_is_not_appended_twice(ctx: ModelContext) -> None:
    before = lose_topic(ctx)
    memory_ledger(ctx).lose_acknowledgement = True
    assert restore(ctx).entries == 4
    assert ledger_values(ctx) == before


def test_restore_of_an_unavailable_ledger_raises_and_can_be_repeated(ctx: ModelContext) -> None:
    before = lose_topic(ctx)
    memory_ledger(ctx).unavailable = True
    with pytest.raises(LogUnavailable):
        restore(ctx)
    memory_ledger(ctx).unavailable = False
    restore(ctx)
    assert ledger_values(ctx) == before


def test_entries_of_another_writer_are_named_and_nothing_is_appended(
    ctx: ModelContext,
) -> None:
    before = lose_topic(ctx)
    ctx.ledger.append("m", before[0])
    ctx.ledger.append("m", canonical.encode(entry(ctx.chain(), "x" * 64, "mallory")))
    current = ledger_values(ctx)
    with pytest.raises(LedgerBroken, match=r"entry 1 .*offset 1, deploy of x{64} by mallory"):
        restore(ctx)
    assert ledger_values(ctx) == current
    with pytest.raises(LedgerLost):
        read_chain(ctx)


def test_entries_that_continue_the_copies_are_accepted(ctx: ModelContext) -> None:
    """Another process has restored the ledger and appended to it: its entry follows the copies."""
    for value in lose_topic(ctx):
        ctx.ledger.append("m", value)
    ctx.ledger.append("m", canonical.encode(entry(ctx.chain(), "e")))
    assert restore(ctx).entries == 5
    assert len(read_chain(ctx).entries) == 5
    assert ctx.repository.entry(4) == ledger_values(ctx)[4]


@pytest.mark.parametrize("seq", [0, 2])
@pytest.mark.parametrize("damage", ["missing", "edited"])
def test_copies_that_do_not_form_a_chain_are_refused_before_anything_is_appended(
    ctx: ModelContext, seq: int, damage: str
) -> None:
    lose_topic(ctx)
    name = f"m/ledger/{seq:08d}.json"
    copy = ctx.repository.store.get(name) or b""
    ctx.repository.store.delete(name)
    if damage == "edited":
        ctx.repository.store.put(name, copy.replace(b"why not", b"because"))
    with pytest.raises(LedgerBroken, match=rf"(entries {seq} and|entry {seq} of)"):
        restore(ctx)
    assert ledger_values(ctx) == []
