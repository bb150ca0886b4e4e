"""Plans and boundaries, compared with a small reference model, whatever happens to the log."""

import json
from collections.abc import Callable
from itertools import count, islice, pairwise
from typing import Literal

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
from cycle.planning_reference import Counts, Cut, Partition, Record, Reference
from support.models.harness import MINUTE, START, window
from tidemill.adapters.memory import MemoryLog
from tidemill.adapters.memory.store import MemoryStore
from tidemill.core.errors import OffsetsExpired, OperationNotAllowed, WindowOpen
from tidemill.core.plans import INITIAL_KEY, Plan
from tidemill.core.records import Manifest
from tidemill.core.spec import ModelSpec
from tidemill.core.windows import Window
from tidemill.cycle.audit.verify import verify
from tidemill.cycle.operations.manual_actions import close, skip
from tidemill.cycle.planning.plan import plan_window
from tidemill.cycle.repository import ModelRepository
from tidemill.cycle.steps.batch import extract_plan
from tidemill.cycle.steps.extract import extract

TOPIC = "events"
WINDOW_MS = 5 * MINUTE

stamps = st.sampled_from(
    [None, None, None, *(MINUTE * after for after in (-16, -8, -6, -3, -1, 0, 0, 1, 2, 6, 11, 43))]
)
"""Milliseconds relative to the current event time; None: the record has no timestamp."""
records = st.lists(st.tuples(stamps, st.booleans()), min_size=1, max_size=6)
"""Timestamp, and whether the value can be decoded."""


OddRecord = tuple[int, int, int | None, bool]
odd_records = st.tuples(st.integers(0, 3), st.integers(0, 40), stamps, st.booleans())
"""Partition and minute of an additional record, then its timestamp and whether it is usable."""


class PlanningMachine(RuleBasedStateMachine):
    """A log in memory, with random records and faults, and a model that plans windows on it."""

    @initialize(
        partitions=st.integers(1, 3),
        confirm=st.integers(2, 5),
        silence=st.sampled_from([None, 7 * MINUTE, 20 * MINUTE]),
        odd=st.lists(odd_records, max_size=8),
    )
    def set_up(
        self, partitions: int, confirm: int, silence: int | None, odd: list[OddRecord]
    ) -> None:
        self.log, self.now, self.event_time = MemoryLog(), 1_900_000_000_000, START - WINDOW_MS
        self.log.create_topic(TOPIC, partitions)
        partition_logs = [Partition() for _ in range(partitions)]
        self.reference = Reference(confirm, 10 * MINUTE, silence, partition_logs)
        windows = {"cron": "*/5 * * * *", "start": "2026-01-01", "confirmation_records": confirm}
        attributes = {
            "topic": TOPIC,
            "fields": {"x": "number"},
            "label": "y",
            "max_reject_share": 1,
        }
        idle = {"idle_timeout": "10m", "close_after_silence": silence}
        self.spec = ModelSpec.create("m", attributes | {"windows": windows | idle})
        self.ctx = make_memory_context(self.spec, self.log, lambda: self.now)
        self.stored_hashes: dict[str, str | None] = {}
        self.windows_checked = 0
        self._produce(40, odd)

    # What happens to the log.

    @rule(minutes=st.integers(5, 40), odd=st.lists(odd_records, max_size=8))
    def time_passes(self, minutes: int, odd: list[OddRecord]) -> None:
        """One record per minute in each partition, and additional ones in between."""
        self._produce(minutes, odd)

    @rule(data=st.data(), batch=records, open_=st.booleans())
    def records_are_appended(
        self, data: st.DataObject, batch: list[tuple[int | None, bool]], open_: bool
    ) -> None:
        """Without a transaction, or in one that stays open."""
        p = self._some_partition(data)
        for after, usable in batch:
            self._append(
                p,
                None if after is None else self.event_time + after,
                usable,
                "open" if open_ else "data",
            )

    @rule(data=st.data(), commit=st.booleans())
    def a_transaction_ends(self, data: st.DataObject, commit: bool) -> None:
        p = self._some_partition(data)
        self.log.end_transaction(TOPIC, p, commit=commit, timestamp=self.now)
        self.reference.partitions[p].end_transaction(commit=commit)

    @precondition(lambda self: len(self.reference.partitions) < 4)
    @rule(expired=st.integers(0, 2))
    def a_partition_is_added(self, expired: int) -> None:
        """Its first records may expire before it is part of a plan."""
        self.log.add_partition(TOPIC)
        self.reference.partitions.append(Partition(low=expired))
        for _ in range(expired):
            self._append(len(self.reference.partitions) - 1, self.event_time, True, "data")
        self.log.delete_before(TOPIC, len(self.reference.partitions) - 1, expired)

    @rule(data=st.data())
    def retention_passes(self, data: st.DataObject) -> None:
        p = self._some_partition(data)
        partition = self.reference.partitions[p]
        partition.low = data.draw(
            st.integers(partition.low, min(partition.low + 9, partition.stable_end))
        )
        self.log.delete_before(TOPIC, p, partition.low)

    # The operations of the model.

    @rule(ahead=st.sampled_from([1, 2, 4, 8]))
    def a_window_is_planned(self, ahead: int) -> None:
        self._attempt(ahead, lambda target: plan_window(self.ctx, target))

    @rule(
        ahead=st.sampled_from([1, 2, 4]),
        waits=st.lists(st.sampled_from([-3, 4, 7, 11]), min_size=1, max_size=4),
    )
    def planning_is_attempted_while_the_stream_is_silent(
        self, ahead: int, waits: list[int]
    ) -> None:
        """`waits` are minutes between the attempts on the host's clock, which may go back."""
        for wait in waits:
            self._attempt(ahead, lambda target: plan_window(self.ctx, target))
            self.now += wait * MINUTE
        self._attempt(ahead, lambda target: plan_window(self.ctx, target))

    @precondition(
        lambda self: START + (len(self.reference.windows) - 1) * WINDOW_MS < self.event_time
    )
    @rule()
    def an_operator_closes_the_stream(self) -> None:
        self._attempt(1, lambda target: close(self.ctx, target, "ada"), closed=True)

    @rule(windows=st.integers(1, 8))
    def windows_are_extracted(self, windows: int) -> None:
        """The first windows without a batch."""
        missing = (n for n in count(1) if self._manifest(n) is None)
        for number in islice(missing, windows):
            self._extract(number)

    @rule(number=st.integers(1, 9))
    def a_window_is_extracted_again(self, number: int) -> None:
        self._extract(min(number, max(1, len(self.reference.windows))))

    @precondition(lambda self: self.reference.windows and self._manifest(0) is None)
    @rule()
    def the_history_is_extracted(self) -> None:
        plan = self._plan(0)
        assert plan is not None
        if not self.reference.expired(self.reference.windows[0]):
            self._assert_counts(0, extract_plan(self.ctx, plan))

    @rule(number=st.sampled_from([3, 7, 8]))
    def a_window_is_skipped(self, number: int) -> None:
        number = min(number, max(1, len(self.reference.windows)))
        manifest = self._manifest(number)
        if manifest is not None and manifest.skipped is None:
            with pytest.raises(OperationNotAllowed):
                skip(self.ctx, self._window(number), "ada", "why not")
        else:
            ahead = number + 1 - len(self.reference.windows)
            self._attempt(ahead, lambda target: skip(self.ctx, target, "ada", "why not"))

    # Invariants.

    @invariant()
    def windows_tile_every_partition(self) -> None:
        for before, after in pairwise(self.reference.windows):
            for p, cut in after.items():
                assert cut.start == (before[p].end if p in before else 0)
                assert cut.start <= cut.end
        for number in range(self.windows_checked, len(self.reference.windows)):
            cuts, plan = self.reference.windows[number], self._plan(number)
            assert plan is not None
            planned_cuts = {r.partition: Cut(r.start, r.end, r.end_reason) for r in plan.ranges}
            assert planned_cuts == cuts
        assert self._plan(len(self.reference.windows)) is None
        # The next invariant checks that these committed plans never change.
        self.windows_checked = len(self.reference.windows)

    @invariant()
    def committed_files_never_change(self) -> None:
        names = self.ctx.repository.names("")
        hashes = {
            name: self.ctx.repository.hash(name) for name in names if name != "observations.json"
        }
        assert hashes | self.stored_hashes == hashes
        self.stored_hashes = hashes

    def teardown(self) -> None:
        if not hasattr(self, "ctx"):
            return
        missing = "The batch of window"  # not all windows are extracted
        findings = verify(self.ctx).findings
        assert [finding for finding in findings if not finding.startswith(missing)] == []
        self._assert_batches_recompute()

    # Helpers.

    def _extract(self, number: int) -> None:
        target, manifest = self._window(number), self._manifest(number)
        expired = (
            self.reference.expired(self.reference.windows[number]) if self._planned(number) else {}
        )
        if manifest is not None:
            assert extract(self.ctx, target) == manifest
        elif expired:
            with pytest.raises(OffsetsExpired) as error:
                extract(self.ctx, target)
            first, last, p = next((a, b, p) for p, (a, b) in expired.items())
            assert f"offsets {first} to {last} of partition {p}" in error.value.message
            assert self._manifest(number) is None
        elif self._planned(number) or not self._expires_when_planned():
            self._attempt(
                number + 1 - len(self.reference.windows), lambda target: extract(self.ctx, target)
            )

    def _assert_batches_recompute(self) -> None:
        scratch = self.ctx.with_repository(ModelRepository(MemoryStore(), "m"))
        for number in range(len(self.reference.windows)):
            plan, manifest = self._plan(number), self._manifest(number)
            assert plan is not None
            scratch.repository.commit_plan(plan)
            expired = self.reference.expired(self.reference.windows[number])
            if manifest is not None and manifest.skipped is None and not expired:
                assert extract_plan(scratch, plan) == manifest

    def _expires_when_planned(self) -> bool:
        """Whether the next window starts with expired offsets."""
        before = self.reference.windows[-1] if self.reference.windows else None
        lows = {p: partition.low for p, partition in enumerate(self.reference.partitions)}
        return before is not None and any(
            low > (before[p].end if p in before else 0) for p, low in lows.items()
        )

    def _attempt(
        self, ahead: int, act: Callable[[Window], Plan | Manifest], *, closed: bool = False
    ) -> None:
        """Run an operation that plans the window `ahead` of the newest; it may still be open."""
        number = max(1, len(self.reference.windows) - 1 + ahead)
        while not self._planned(number):
            end = START + len(self.reference.windows) * WINDOW_MS
            if self.reference.cut(end, self.now, closed=closed) is None:
                with pytest.raises(WindowOpen):
                    act(self._window(number))
                return
        result = act(self._window(number))
        if isinstance(result, Manifest):
            self._assert_counts(number, result)

    def _assert_counts(self, number: int, manifest: Manifest) -> None:
        cuts, start = (
            self.reference.windows[number],
            START + (number - 1) * WINDOW_MS if number else 0,
        )
        expected = self.reference.counts(cuts, start, START + number * WINDOW_MS)
        if manifest.skipped is not None:
            assert (manifest.rows, manifest.rejected, manifest.gaps) == (0, 0, expected.all)
            return
        assert expected == Counts(
            manifest.rows, manifest.rejected, manifest.gaps, manifest.late, manifest.early
        )
        rows = self.ctx.load_rows(manifest)
        assert {*zip(rows["_partition"], rows["_offset"], strict=True)} == self.reference.rows(cuts)

    def _append(
        self, p: int, timestamp: int | None, usable: bool, kind: Literal["data", "open"]
    ) -> None:
        value = json.dumps({"x": 1.5, "y": True}).encode() if usable else b"{"
        self.log.append(TOPIC, p, value, timestamp, transaction=kind == "open")
        self.reference.partitions[p].records.append(Record(kind, timestamp, usable))

    def _produce(self, minutes: int, odd: list[OddRecord]) -> None:
        for minute in range(minutes):
            self.event_time += MINUTE
            for p in range(len(self.reference.partitions)):
                self._append(p, self.event_time + p, True, "data")
            for p, odd_minute, after, usable in odd:
                if minute == odd_minute:
                    timestamp = None if after is None else self.event_time + after
                    self._append(p % len(self.reference.partitions), timestamp, usable, "data")

    def _some_partition(self, data: st.DataObject) -> int:
        return data.draw(st.integers(0, len(self.reference.partitions) - 1))

    def _planned(self, number: int) -> bool:
        return number < len(self.reference.windows)

    def _key(self, number: int) -> str:
        return self._window(number).key if number else INITIAL_KEY

    def _window(self, number: int) -> Window:
        """Windows are numbered from 1 here; 0 is the history before the first window."""
        return window(self.spec, number - 1)

    def _plan(self, number: int) -> Plan | None:
        return self.ctx.repository.plan(self._key(number))

    def _manifest(self, number: int) -> Manifest | None:
        return self.ctx.repository.manifest(self._key(number))


def test_windows_tile_and_batches_hold_their_records_whatever_happens() -> None:
    """Records in any order, transactions, new partitions, retention, clocks and commands."""
    run_state_machine_as_test(
        PlanningMachine, settings=settings(max_examples=60, stateful_step_count=40)
    )
