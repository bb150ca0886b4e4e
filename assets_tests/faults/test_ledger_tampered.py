"""A ledger that was tampered with: `verify` reports the entry, and no writer continues."""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import pytest

from faults.ledgers import ledger_records, open_new_ledger
from support.models import oracle
from support.models.harness import ModelHarness, run_window, run_windows
from tidemill.core import canonical
from tidemill.core.errors import LedgerBroken, LedgerLost, TidemillError
from tidemill.cycle.audit.verify import verify
from tidemill.cycle.context import ModelContext

Tamper = Callable[[list[bytes]], list[bytes]]


def edit_entry(index: int, **changes: object) -> Tamper:
    def tamper(values: list[bytes]) -> list[bytes]:
        entry = json.loads(values[index]) | changes
        return [*values[:index], canonical.encode(entry), *values[index + 1 :]]

    return tamper


def reencode_entry(values: list[bytes]) -> list[bytes]:
    """Encode the same entry 1 differently."""
    return [values[0], json.dumps(json.loads(values[1])).encode(), *values[2:]]


TAMPERED: dict[str, tuple[Tamper, list[tuple[int, str]], type[TidemillError] | None]] = {
    "the first edited": (
        edit_entry(0, reason="no reason"),
        [(0, "differs"), (1, "invalid"), (2, "invalid"), (3, "invalid")],
        LedgerLost,
    ),
    "one edited": (
        edit_entry(1, digest="0" * 64),
        [(1, "differs"), (2, "invalid"), (3, "invalid")],
        LedgerLost,
    ),
    "one reencoded": (reencode_entry, [(1, "differs"), (2, "invalid"), (3, "invalid")], LedgerLost),
    "the last edited": (edit_entry(3, actor="mallory"), [(3, "differs")], LedgerBroken),
    "one removed": (
        lambda v: [v[0], *v[2:]],
        [(1, "gone"), (2, "invalid"), (3, "invalid")],
        LedgerLost,
    ),
    "the last removed": (lambda v: v[:-1], [(3, "gone")], LedgerLost),
    "two reordered": (
        lambda v: [v[0], v[2], v[1], v[3]],
        [(2, "invalid"), (3, "invalid")],
        LedgerLost,
    ),
    "all removed": (lambda v: [], [(seq, "gone") for seq in range(4)], LedgerLost),
    "one inserted, which is invalid": (
        lambda v: [*v[:2], v[1].replace(b'"seq": 1', b'"seq": 2'), *v[2:]],
        [],
        None,
    ),
}
FINDINGS = {
    "differs": "Ledger entry {} differs between the topic and its copy.",
    "gone": "Ledger entry {} is missing in the topic; the store has its copy.",
    "invalid": "Ledger entry {} is no longer valid in the topic: at offset ",
}


def make_four_entries(harness: ModelHarness) -> list[bytes]:
    """Define a model that deploys every candidate; its ledger's records, entries 0 to 3."""
    harness.define(gate={"policy": "always"})
    harness.produce_windows(-3, 4)
    with harness.open_model() as ctx:
        run_windows(ctx, 0, 2)
        assert [s.entry.seq for s in ctx.chain().entries] == [0, 1, 2, 3]
    return [record.value for record in ledger_records(harness)]


@contextmanager
def open_tampered(harness: ModelHarness, values: Sequence[bytes]) -> Iterator[ModelContext]:
    """The context on a topic with these records, which the store accepts as its ledger."""
    with open_new_ledger(harness, values) as ctx:
        topic_record = ctx.repository.store.get(f"{ctx.model}/ledger/topic.json")
        ctx.repository.store.delete(f"{ctx.model}/ledger/topic.json")
        yield ctx
        assert topic_record is not None
        ctx.repository.store.replace(f"{ctx.model}/ledger/topic.json", topic_record)


def entry_findings(ctx: ModelContext) -> list[str]:
    return [finding for finding in verify(ctx).findings if finding.startswith("Ledger entry")]


@pytest.mark.faults
def test_verify_reports_every_entry_that_was_edited_removed_or_reordered(
    harness: ModelHarness,
) -> None:
    """Fault 27: each change on a separate topic, compared with the same copies."""
    values = make_four_entries(harness)
    for name, (tamper, expected, error_type) in TAMPERED.items():
        with open_tampered(harness, tamper(list(values))) as ctx:
            findings = entry_findings(ctx)
            assert len(findings) == len(expected), (name, findings)
            for finding, (seq, kind) in zip(findings, expected, strict=True):
                assert finding.startswith(FINDINGS[kind].format(seq)), (name, finding)
            before = len(ctx.ledger.read())
            if error_type is not None:
                with pytest.raises(error_type, match=ctx.model):
                    run_window(ctx, 3)
            assert len(ctx.ledger.read()) == before
    oracle.assert_consistent(harness)


def test_a_copy_of_the_ledger_on_another_topic_is_not_the_ledger(harness: ModelHarness) -> None:
    """Fault 27: even if it has the same bytes in the same order."""
    values = make_four_entries(harness)
    with open_new_ledger(harness, values) as ctx:
        (finding,) = verify(ctx).findings
        assert finding.startswith("The ledger's entries were in topic ")
        with pytest.raises(LedgerLost, match="entries of model"):
            run_window(ctx, 3)
    oracle.assert_consistent(harness)


def test_verify_reports_a_stored_copy_that_was_edited_removed_or_swapped(
    harness: ModelHarness,
) -> None:
    """Fault 27, the other way round: the topic is unchanged."""
    make_four_entries(harness)
    with harness.open_model() as ctx:
        store, copies = ctx.repository.store, [ctx.repository.entry(seq) for seq in range(4)]
        name = f"{ctx.model}/ledger/{{:08d}}.json"

        def findings_with(changes: dict[int, bytes | None]) -> list[str]:
            for seq, data in changes.items():
                store.delete(name.format(seq))
                assert data is None or store.put(name.format(seq), data)
            findings = entry_findings(ctx)
            for seq in changes:
                store.replace(name.format(seq), copies[seq] or b"")
            return findings

        for seq in range(4):
            findings = findings_with({seq: (copies[seq] or b"") + b" "})
            assert findings == [f"Ledger entry {seq} differs between the topic and its copy."]
            findings = findings_with({seq: None})
            assert findings == [f"Ledger entry {seq} is in the topic, but was never copied."]
        assert [f[:15] for f in findings_with({1: copies[2], 2: copies[1]})] == [
            "Ledger entry 1 ",
            "Ledger entry 2 ",
        ]
        invented = canonical.encode({"model": ctx.model, "seq": 4})
        store.put(name.format(4), invented)
        assert entry_findings(ctx) == [
            "Ledger entry 4 is missing in the topic; the store has its copy."
        ]
        store.delete(name.format(4))
        assert entry_findings(ctx) == []
    oracle.assert_consistent(harness)
