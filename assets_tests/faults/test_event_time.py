"""Events that are late, out of order or ahead of time, and clocks that are wrong."""

from dataclasses import replace

import polars as pl
import pytest

import oracle
from model_harness import MINUTE, ModelHarness, run_window, run_windows
from tidemill.adapters.memory.event_log import MemoryLedger
from tidemill.adapters.memory.store import MemoryStore
from tidemill.cycle.context import ModelContext
from tidemill.cycle.extract import extract, load_rows
from tidemill.cycle.initial import initial
from tidemill.cycle.plan import plan_window
from tidemill.cycle.repository import ModelRepository
from topic_tools import event, spread_events, timestamp_at

WINDOWS = 22
"""The one with the record from the future, the 20 after it, and one more."""


def test_late_and_out_of_order_events_are_in_exactly_one_window_and_counted(
    harness: ModelHarness,
) -> None:
    """Row 15: earlier bytes do not change."""
    harness.produce_windows(-3, 0)
    shuffled = spread_events(100, 5, 10)
    shuffled = shuffled[1::2] + shuffled[::2]  # half a window out of order
    harness.produce(
        0, [*shuffled, event(timestamp_at(2)), event(timestamp_at(-7)), event(timestamp_at(10.5))]
    )
    harness.produce(
        1, [*spread_events(100, 5, 9), event(timestamp_at(4.99)), *spread_events(50, 9, 10)]
    )
    with harness.open_model() as mill:
        initial(mill)
        run_window(mill, 0)
        kept = {name: mill.repository.hash(name) for name in mill.repository.names("")}
        harness.produce(0, [*spread_events(60, 10, 15), event(timestamp_at(3))])
        harness.produce(1, spread_events(60, 10, 15))
        harness.produce_windows(3, 4)
        run_window(mill, 1)
        run_window(mill, 2)
        made = [extract(mill, harness.window(number)) for number in range(3)]
        assert [one.late for one in made] == [0, 3, 1]
        assert [one.rows for one in made] == [200, 100 + 2 + 151, 1 + 60 + 1 + 60]
        rows = pl.concat([load_rows(mill, one) for one in made])
        assert rows.select("_partition", "_offset").is_unique().all()
        changed = {name for name, sha in kept.items() if mill.repository.hash(name) != sha}
        assert changed <= {"observations.json"}
    oracle.assert_consistent(harness)


@pytest.mark.faults
@pytest.mark.parametrize("ahead", [43, 24 * 60], ids=["43 minutes", "a day"])
def test_a_record_stamped_ahead_changes_the_size_of_no_following_window(
    harness: ModelHarness, ahead: int
) -> None:
    """Row 16: it stands 21 records before the end of its window, with the default `confirm`."""
    twin = ModelHarness(harness.bootstrap_servers, harness.home, f"{harness.model}t")
    sizes, kept = {}, {}
    for each in (harness, twin):
        each.define(windows={"cron": "*/5 * * * *", "start": "2026-01-01"})
        if each is twin:
            each.create_topic()
        for partition in range(2):
            records = spread_events(40 * (WINDOWS + 3), -10, 5 * (WINDOWS + 1))
            if each is harness and partition == 0:
                records.insert(3 * 40 - 21, event(records[3 * 40 - 21][0] + ahead * MINUTE))
            each.produce(partition, records)
        with each.open_model() as mill:
            initial(mill)
            plan_window(mill, each.window(WINDOWS - 1))
            made = [extract(mill, each.window(number)) for number in range(WINDOWS)]
            sizes[each.model] = [one.rows for one in made]
            kept[each.model] = [(one.late, one.early, one.gaps, one.rejected) for one in made]
    assert sizes[twin.model] == [80] * WINDOWS
    assert sizes[harness.model] == [81] + [80] * (WINDOWS - 1)
    assert kept[twin.model] == [(0, 0, 0, 0)] * WINDOWS
    assert kept[harness.model] == [(0, 1, 0, 0)] + [(0, 0, 0, 0)] * (WINDOWS - 1)
    oracle.assert_consistent(harness)


def test_no_plan_and_no_byte_depends_on_the_hosts_clock(harness: ModelHarness) -> None:
    """Row 16: the same stream, milled by hosts a day ahead and a day behind, open windows too."""
    harness.produce_windows(-3, 2)
    with harness.open_model() as mill:
        hosts = [_on_other_host(mill, days) for days in (0, 1, -1)]
        for host in hosts:
            run_windows(host, 0, 0)
        harness.produce_windows(3, 4)
        for host in hosts:
            run_windows(host, 1, 3)
        right, *others = [_stored_hashes(host) for host in hosts]
        assert len(right) > 20
        for other in others:
            assert other == right


def _on_other_host(ctx: ModelContext, days: int) -> ModelContext:
    """The same mill on a host with an empty store, whose clock is so many days wrong."""

    def now() -> int:
        return ctx.clock() + days * 24 * 60 * MINUTE

    scratch = ctx.with_repository(ModelRepository(MemoryStore(), ctx.model))
    return replace(scratch, ledger=MemoryLedger(), now=now)


def _stored_hashes(ctx: ModelContext) -> dict[str, str | None]:
    """The sha256 of all that is stored, but for what the clock is for, and the ledger's place."""
    excluded = {"observations.json", "ledger/topic.json"}
    return {
        name: ctx.repository.hash(name) for name in ctx.repository.names("") if name not in excluded
    }
