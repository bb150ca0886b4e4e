"""The ledger under writers that interleave, against a small model of its rule."""

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

from in_memory import mill_in_memory
from tidemill.adapters.memory.log import MemoryLedger, MemoryLog
from tidemill.core import canonical
from tidemill.core.errors import OperationNotAllowed
from tidemill.core.ledger import Chain, Entry
from tidemill.core.spec import ModelSpec
from tidemill.cycle.deploy import append_entry, read_chain


class Deploying(RuleBasedStateMachine):
    """Writers of one model's ledger, which read, decide and append between each other."""

    @initialize()
    def begin(self) -> None:
        windows = {"start": "2026-01-01"}
        told = {"topic": "events", "fields": {"x": "number"}, "label": "y", "windows": windows}
        self.mill = mill_in_memory(ModelSpec.model_validate(told), MemoryLog(), lambda: 0)
        self.standing: list[bytes] = []
        self.waiting: list[Entry] = []

    @rule(digest=st.sampled_from("abcd"))
    def a_writer_reads_the_ledger(self, digest: str) -> None:
        self.waiting.append(_entry(digest, read_chain(self.mill)))

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def a_writer_appends_what_it_decided_then(self, data: st.DataObject) -> None:
        self._append(self.waiting.pop(data.draw(st.integers(0, len(self.waiting) - 1))))

    @rule(digest=st.sampled_from("abcd"))
    def an_entry_of_another_history_is_appended(self, digest: str) -> None:
        """Its `seq` is right, but it follows an entry that never stood."""
        self._append(replace(_entry(digest, read_chain(self.mill)), prev="0" * 64))

    @rule(value=st.sampled_from([b"", b"{}", b"\xff", b'{"model": "m"}', b"null"]))
    def what_is_no_entry_is_appended(self, value: bytes) -> None:
        self.mill.ledger.append("m", value)

    @rule(
        digest=st.sampled_from("abcd"), rivals=st.sampled_from([0, 0, 1, 3, 8]), lost=st.booleans()
    )
    def an_entry_is_appended_among_rivals(self, digest: str, rivals: int, lost: bool) -> None:
        """A rival's entry comes between reading and appending, so many times."""
        left, before = rivals, len(self.standing)

        def decide(chain: Chain) -> Entry | None:
            nonlocal left
            if chain.head is not None and chain.head.entry.digest == digest:
                return None
            if left:
                left -= 1
                self._append(_entry(f"rival{left}", chain))
            elif lost:
                assert isinstance(self.mill.ledger, MemoryLedger)
                self.mill.ledger.lose_acknowledgement = True
            return _entry(digest, chain)

        in_service = before and canonical.decode(self.standing[-1], Entry).digest == digest
        if rivals == 8 and not in_service:
            with pytest.raises(OperationNotAllowed):
                append_entry(self.mill, decide)
            assert len(self.standing) == before + 8
            return
        entry = append_entry(self.mill, decide)
        assert (entry is None) == bool(in_service)
        if entry is not None:
            assert (entry.digest, entry.seq) == (digest, before + rivals)
            self.standing.append(canonical.encode(entry))

    @invariant()
    def every_reader_sees_the_one_chain(self) -> None:
        chain = self.mill.chain()
        assert [s.hash for s in chain.entries] == [canonical.digest(v) for v in self.standing]
        copies = [self.mill.repository.entry(seq) for seq in range(len(self.standing))]
        assert all(copy in (None, value) for copy, value in zip(copies, self.standing, strict=True))

    def _append(self, entry: Entry) -> None:
        """It stands if it follows the last that stands."""
        value = canonical.encode(entry)
        prev = canonical.digest(self.standing[-1]) if self.standing else None
        if (entry.seq, entry.prev) == (len(self.standing), prev):
            self.standing.append(value)
        self.mill.ledger.append("m", value)


def _entry(digest: str, chain: Chain) -> Entry:
    seq, prev = chain.next_position
    return Entry("m", seq, "deploy", digest, None, None, None, None, "tests", "why not", prev)


def test_the_ledger_is_one_chain_for_every_reader_however_writers_interleave() -> None:
    run_state_machine_as_test(Deploying, settings=settings(max_examples=50, stateful_step_count=30))
