"""A ledger that was tampered with: `verify` names the entry, and no writer goes on."""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import pytest

import oracle
from ledger_tools import ledger_records, open_new_ledger
from model_harness import ModelHarness, run_window, run_windows
from tidemill.core import canonical
from tidemill.core.errors import LedgerBroken, LedgerLost, TidemillError
from tidemill.cycle.context import ModelContext
from tidemill.cycle.verify import verify

Tamper = Callable[[list[bytes]], list[bytes]]


def edit_entry(index: int, **changes: object) -> Tamper:
    def tamper(values: list[bytes]) -> list[bytes]:
        entry = json.loads(values[index]) | changes
        return [*values[:index], canonical.encode(entry), *values[index + 1 :]]

    return tamper


def reencode_entry(values: list[bytes]) -> list[bytes]:
    """The same entry 1 in other bytes."""
    return [values[0], json.dumps(json.loads(values[1])).encode(), *values[2:]]


TAMPERED: dict[str, tuple[Tamper, list[tuple[int, str]], type[TidemillError] | None]] = {
    "the first edited": (
        edit_entry(0, why="no reason"),
        [(0, "differs"), (1, "void"), (2, "void"), (3, "void")],
        LedgerLost,
    ),
    "one edited": (
        edit_entry(1, digest="0" * 64),
        [(1, "differs"), (2, "void"), (3, "void")],
        LedgerLost,
    ),
    "one respelled": (reencode_entry, [(1, "differs"), (2, "void"), (3, "void")], LedgerLost),
    "the last edited": (edit_entry(3, by="mallory"), [(3, "differs")], LedgerBroken),
    "one removed": (
        lambda v: [v[0], *v[2:]],
        [(1, "gone"), (2, "void"), (3, "void")],
        LedgerLost,
    ),
    "the last removed": (lambda v: v[:-1], [(3, "gone")], LedgerLost),
    "two reordered": (
        lambda v: [v[0], v[2], v[1], v[3]],
        [(2, "void"), (3, "void")],
        LedgerLost,
    ),
    "all removed": (lambda v: [], [(seq, "gone") for seq in range(4)], LedgerLost),
    "one inserted, which is void by rule": (
        lambda v: [*v[:2], v[1].replace(b'"seq": 1', b'"seq": 2'), *v[2:]],
        [],
        None,
    ),
}
FINDINGS = {
    "differs": "Ledger entry {} differs between the topic and its copy.",
    "gone": "Ledger entry {} is gone from the topic; the store has its copy.",
    "void": "Ledger entry {} no longer stands in the topic: at offset ",
}


def make_four_entries(harness: ModelHarness) -> list[bytes]:
    """A model whose every candidate serves, and the records of its ledger: entries 0 to 3."""
    harness.define(gate={"policy": "always"})
    harness.produce_windows(-3, 4)
    with harness.open_model() as ctx:
        run_windows(ctx, 0, 2)
        assert [s.entry.seq for s in ctx.chain().entries] == [0, 1, 2, 3]
    return [record.value for record in ledger_records(harness)]


@contextmanager
def open_tampered(harness: ModelHarness, values: Sequence[bytes]) -> Iterator[ModelContext]:
    """The mill over a topic with these records, which the store takes for the one it knew."""
    with open_new_ledger(harness, values) as ctx:
        topic_record = ctx.repository.store.get(f"{ctx.model}/ledger/topic.json")
        ctx.repository.store.delete(f"{ctx.model}/ledger/topic.json")
        yield ctx
        assert topic_record is not None
        ctx.repository.store.replace(f"{ctx.model}/ledger/topic.json", topic_record)


def entry_findings(ctx: ModelContext) -> list[str]:
    return [finding for finding in verify(ctx).findings if finding.startswith("Ledger entry")]


@pytest.mark.faults
def test_verify_names_every_entry_that_was_edited_removed_or_reordered(
    harness: ModelHarness,
) -> None:
    """Row 27, each way on a topic of its own, held against the same copies."""
    values = make_four_entries(harness)
    for way, (tamper, expected, named) in TAMPERED.items():
        with open_tampered(harness, tamper(list(values))) as mill:
            found = entry_findings(mill)
            assert len(found) == len(expected), (way, found)
            for finding, (seq, kind) in zip(found, expected, strict=True):
                assert finding.startswith(FINDINGS[kind].format(seq)), (way, finding)
            before = len(mill.ledger.read())
            if named is not None:
                with pytest.raises(named, match=mill.model):
                    run_window(mill, 3)
            assert len(mill.ledger.read()) == before
    oracle.assert_consistent(harness)


def test_a_copy_of_the_ledger_on_another_topic_is_not_the_ledger(harness: ModelHarness) -> None:
    """Row 27: even with the same bytes in the same order."""
    values = make_four_entries(harness)
    with open_new_ledger(harness, values) as mill:
        (found,) = verify(mill).findings
        assert found.startswith("The ledger's entries stood in topic ")
        with pytest.raises(LedgerLost, match="entries of model"):
            run_window(mill, 3)
    oracle.assert_consistent(harness)


def test_verify_names_a_copy_in_the_store_that_was_edited_removed_or_exchanged(
    harness: ModelHarness,
) -> None:
    """Row 27, from the other side: the topic is right."""
    make_four_entries(harness)
    with harness.open_model() as mill:
        store, copies = mill.repository.store, [mill.repository.entry(seq) for seq in range(4)]
        name = f"{mill.model}/ledger/{{:08d}}.json"

        def found_with(changes: dict[int, bytes | None]) -> list[str]:
            for seq, data in changes.items():
                store.delete(name.format(seq))
                assert data is None or store.put(name.format(seq), data)
            found = entry_findings(mill)
            for seq in changes:
                store.replace(name.format(seq), copies[seq] or b"")
            return found

        for seq in range(4):
            found = found_with({seq: (copies[seq] or b"") + b" "})
            assert found == [f"Ledger entry {seq} differs between the topic and its copy."]
            found = found_with({seq: None})
            assert found == [f"Ledger entry {seq} stands in the topic, but was never copied."]
        assert [f[:15] for f in found_with({1: copies[2], 2: copies[1]})] == [
            "Ledger entry 1 ",
            "Ledger entry 2 ",
        ]
        invented = canonical.encode({"model": mill.model, "seq": 4})
        store.put(name.format(4), invented)
        assert entry_findings(mill) == [
            "Ledger entry 4 is gone from the topic; the store has its copy."
        ]
        store.delete(name.format(4))
        assert entry_findings(mill) == []
    oracle.assert_consistent(harness)
