"""A ledger that was tampered with: `verify` names the entry, and no writer goes on."""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import pytest

import oracle
from bench import Bench, run, turn
from ledger_hands import another_ledger, records
from tidemill.core import canonical
from tidemill.core.errors import LedgerBroken, LedgerLost, TidemillError
from tidemill.cycle.mill import ModelContext
from tidemill.cycle.verify import verify

Tamper = Callable[[list[bytes]], list[bytes]]


def edited(at: int, **changes: object) -> Tamper:
    def tamper(values: list[bytes]) -> list[bytes]:
        entry = json.loads(values[at]) | changes
        return [*values[:at], canonical.encode(entry), *values[at + 1 :]]

    return tamper


def respelled(values: list[bytes]) -> list[bytes]:
    """The same entry 1 in other bytes."""
    return [values[0], json.dumps(json.loads(values[1])).encode(), *values[2:]]


TAMPERED: dict[str, tuple[Tamper, list[tuple[int, str]], type[TidemillError] | None]] = {
    "the first edited": (
        edited(0, why="no reason"),
        [(0, "differs"), (1, "void"), (2, "void"), (3, "void")],
        LedgerLost,
    ),
    "one edited": (
        edited(1, digest="0" * 64),
        [(1, "differs"), (2, "void"), (3, "void")],
        LedgerLost,
    ),
    "one respelled": (respelled, [(1, "differs"), (2, "void"), (3, "void")], LedgerLost),
    "the last edited": (edited(3, by="mallory"), [(3, "differs")], LedgerBroken),
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
TOLD = {
    "differs": "Ledger entry {} differs between the topic and its copy.",
    "gone": "Ledger entry {} is gone from the topic; the store has its copy.",
    "void": "Ledger entry {} no longer stands in the topic: at offset ",
}


def four_entries(bench: Bench) -> list[bytes]:
    """A model whose every candidate serves, and the records of its ledger: entries 0 to 3."""
    bench.define(gate={"policy": "always"})
    bench.feed(-3, 4)
    with bench.mill() as mill:
        run(mill, 0, 2)
        assert [s.entry.seq for s in mill.chain().entries] == [0, 1, 2, 3]
    return [record.value for record in records(bench)]


@contextmanager
def tampered(bench: Bench, values: Sequence[bytes]) -> Iterator[ModelContext]:
    """The mill over a topic with these records, which the store takes for the one it knew."""
    with another_ledger(bench, values) as mill:
        place = mill.repository.store.get(f"{mill.model}/ledger/topic.json")
        mill.repository.store.delete(f"{mill.model}/ledger/topic.json")
        yield mill
        assert place is not None
        mill.repository.store.replace(f"{mill.model}/ledger/topic.json", place)


def about_entries(mill: ModelContext) -> list[str]:
    return [finding for finding in verify(mill).findings if finding.startswith("Ledger entry")]


@pytest.mark.faults
def test_verify_names_every_entry_that_was_edited_removed_or_reordered(bench: Bench) -> None:
    """Row 27, each way on a topic of its own, held against the same copies."""
    values = four_entries(bench)
    for way, (tamper, expected, named) in TAMPERED.items():
        with tampered(bench, tamper(list(values))) as mill:
            found = about_entries(mill)
            assert len(found) == len(expected), (way, found)
            for finding, (seq, kind) in zip(found, expected, strict=True):
                assert finding.startswith(TOLD[kind].format(seq)), (way, finding)
            before = len(mill.ledger.read())
            if named is not None:
                with pytest.raises(named, match=mill.model):
                    turn(mill, 3)
            assert len(mill.ledger.read()) == before
    oracle.check(bench)


def test_a_copy_of_the_ledger_on_another_topic_is_not_the_ledger(bench: Bench) -> None:
    """Row 27: even with the same bytes in the same order."""
    values = four_entries(bench)
    with another_ledger(bench, values) as mill:
        (found,) = verify(mill).findings
        assert found.startswith("The ledger's entries stood in topic ")
        with pytest.raises(LedgerLost, match="entries of model"):
            turn(mill, 3)
    oracle.check(bench)


def test_verify_names_a_copy_in_the_store_that_was_edited_removed_or_exchanged(
    bench: Bench,
) -> None:
    """Row 27, from the other side: the topic is right."""
    four_entries(bench)
    with bench.mill() as mill:
        store, copies = mill.repository.store, [mill.repository.entry(seq) for seq in range(4)]
        name = f"{mill.model}/ledger/{{:08d}}.json"

        def found_with(changes: dict[int, bytes | None]) -> list[str]:
            for seq, data in changes.items():
                store.delete(name.format(seq))
                assert data is None or store.put(name.format(seq), data)
            found = about_entries(mill)
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
        assert about_entries(mill) == [
            "Ledger entry 4 is gone from the topic; the store has its copy."
        ]
        store.delete(name.format(4))
        assert about_entries(mill) == []
    oracle.check(bench)
