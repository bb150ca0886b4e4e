"""The ledger under interleaved writers, compared with a small reference model."""

from dataclasses import replace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from cycle.memory_model import make_memory_context
from tidemill.adapters.memory import MemoryLedger, MemoryLog
from tidemill.core import canonical
from tidemill.core.errors import OperationNotAllowed
from tidemill.core.ledger import Chain, Entry
from tidemill.core.spec import ModelSpec
from tidemill.cycle.ledger import append_entry, read_chain


class LedgerMachine(RuleBasedStateMachine):
    """Writers of one model's ledger whose reads, decisions and appends interleave."""

    @initialize()
    def set_up(self) -> None:
        windows = {"start": "2026-01-01"}
        attributes = {
            "topic": "events",
            "fields": {"x": "number"},
            "label": "y",
            "windows": windows,
        }
        self.ctx = make_memory_context(ModelSpec.create("m", attributes), MemoryLog(), lambda: 0)
        self.valid_values: list[bytes] = []
        self.pending: list[Entry] = []

    @rule(digest=st.sampled_from("abcd"))
    def a_writer_reads_the_ledger(self, digest: str) -> None:
        self.pending.append(_entry(digest, read_chain(self.ctx)))

    @precondition(lambda self: self.pending)
    @rule(data=st.data())
    def a_writer_appends_its_earlier_decision(self, data: st.DataObject) -> None:
        self._append(self.pending.pop(data.draw(st.integers(0, len(self.pending) - 1))))

    @rule(digest=st.sampled_from("abcd"))
    def an_entry_of_another_history_is_appended(self, digest: str) -> None:
        """Its `seq` is correct, but its `prev` names an entry that was never valid."""
        self._append(replace(_entry(digest, read_chain(self.ctx)), prev="0" * 64))

    @rule(value=st.sampled_from([b"", b"{}", b"\xff", b'{"model": "m"}', b"null"]))
    def a_malformed_entry_is_appended(self, value: bytes) -> None:
        self.ctx.ledger.append("m", value)

    @rule(
        digest=st.sampled_from("abcd"), rivals=st.sampled_from([0, 0, 1, 3, 8]), lost=st.booleans()
    )
    def an_entry_is_appended_among_rivals(self, digest: str, rivals: int, lost: bool) -> None:
        """`rivals` times, another writer appends between this one's read and append."""
        rivals_left, before = rivals, len(self.valid_values)

        def build_entry(chain: Chain) -> Entry | None:
            nonlocal rivals_left
            if chain.head is not None and chain.head.entry.digest == digest:
                return None
            if rivals_left:
                rivals_left -= 1
                self._append(_entry(f"rival{rivals_left}", chain))
            elif lost:
                assert isinstance(self.ctx.ledger, MemoryLedger)
                self.ctx.ledger.lose_acknowledgement = True
            return _entry(digest, chain)

        in_service = before and canonical.decode(self.valid_values[-1], Entry).digest == digest
        if rivals == 8 and not in_service:
            with pytest.raises(OperationNotAllowed):
                append_entry(self.ctx, build_entry)
            assert len(self.valid_values) == before + 8
            return
        entry = append_entry(self.ctx, build_entry)
        assert (entry is None) == bool(in_service)
        if entry is not None:
            assert (entry.digest, entry.seq) == (digest, before + rivals)
            self.valid_values.append(canonical.encode(entry))

    @invariant()
    def every_reader_sees_the_one_chain(self) -> None:
        chain = self.ctx.chain()
        hashes = [valid_entry.hash for valid_entry in chain.entries]
        assert hashes == [canonical.digest(value) for value in self.valid_values]
        copies = [self.ctx.repository.entry(seq) for seq in range(len(self.valid_values))]
        assert all(
            copy in (None, value) for copy, value in zip(copies, self.valid_values, strict=True)
        )

    def _append(self, entry: Entry) -> None:
        """The entry is valid if it follows the last valid one."""
        value = canonical.encode(entry)
        prev = canonical.digest(self.valid_values[-1]) if self.valid_values else None
        if (entry.seq, entry.prev) == (len(self.valid_values), prev):
            self.valid_values.append(value)
        self.ctx.ledger.append("m", value)


def _entry(digest: str, chain: Chain) -> Entry:
    seq, prev = chain.next_position
    return Entry("m", seq, "deploy", digest, None, None, None, None, "tests", "why not", prev)


def test_the_ledger_is_one_chain_for_every_reader_however_writers_interleave() -> None:
    run_state_machine_as_test(
        LedgerMachine, settings=settings(max_examples=50, stateful_step_count=30)
    )
