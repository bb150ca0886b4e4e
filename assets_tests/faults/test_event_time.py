"""Late, out-of-order and early events, and wrong clocks."""

from dataclasses import replace

import polars as pl
import pytest

from faults.topics import event, spread_events, timestamp_at
from support.models import oracle
from support.models.harness import MINUTE, ModelHarness, run_window, run_windows
from tidemill.adapters.memory import MemoryLedger
from tidemill.adapters.memory.store import MemoryStore
from tidemill.cycle.context import ModelContext
from tidemill.cycle.planning.plan import plan_window
from tidemill.cycle.repository import ModelRepository
from tidemill.cycle.steps.extract import extract
from tidemill.cycle.steps.initial import initial

WINDOWS = 22
"""The window with the record from the future, the 20 after it, and one more."""


def test_late_and_out_of_order_events_are_in_exactly_one_window_and_counted(
    harness: ModelHarness,
) -> None:
    """Fault 15: files of earlier windows do not change."""
    harness.produce_windows(-3, 0)
    shuffled = spread_events(100, 5, 10)
    shuffled = shuffled[1::2] + shuffled[::2]  # half a window out of order
    harness.produce(
        0, [*shuffled, event(timestamp_at(2)), event(timestamp_at(-7)), event(timestamp_at(10.5))]
    )
    harness.produce(
        1, [*spread_events(100, 5, 9), event(timestamp_at(4.99)), *spread_events(50, 9, 10)]
    )
    with harness.open_model() as ctx:
        initial(ctx)
        run_window(ctx, 0)
        hashes = {name: ctx.repository.hash(name) for name in ctx.repository.names("")}
        harness.produce(0, [*spread_events(60, 10, 15), event(timestamp_at(3))])
        harness.produce(1, spread_events(60, 10, 15))
        harness.produce_windows(3, 4)
        run_window(ctx, 1)
        run_window(ctx, 2)
        manifests = [extract(ctx, harness.window(number)) for number in range(3)]
        assert [manifest.late for manifest in manifests] == [0, 3, 1]
        assert [manifest.rows for manifest in manifests] == [200, 100 + 2 + 151, 1 + 60 + 1 + 60]
        rows = pl.concat([ctx.load_rows(manifest) for manifest in manifests])
        assert rows.select("_partition", "_offset").is_unique().all()
        changed = {name for name, sha in hashes.items() if ctx.repository.hash(name) != sha}
        assert changed <= {"observations.json"}
    oracle.assert_consistent(harness)


@pytest.mark.faults
@pytest.mark.parametrize("minutes_early", [43, 24 * 60], ids=["43 minutes", "a day"])
def test_a_record_from_the_future_changes_the_size_of_no_later_window(
    harness: ModelHarness, minutes_early: int
) -> None:
    """Fault 16: 21 records before the end of its window, with default `confirmation_records`."""
    twin = ModelHarness(harness.bootstrap_servers, harness.home, f"{harness.model}t")
    sizes, counts = {}, {}
    for either in (harness, twin):
        either.define(windows={"cron": "*/5 * * * *", "start": "2026-01-01"})
        if either is twin:
            either.create_topic()
        for partition in range(2):
            records = spread_events(40 * (WINDOWS + 3), -10, 5 * (WINDOWS + 1))
            if either is harness and partition == 0:
                records.insert(3 * 40 - 21, event(records[3 * 40 - 21][0] + minutes_early * MINUTE))
            either.produce(partition, records)
        with either.open_model() as ctx:
            initial(ctx)
            plan_window(ctx, either.window(WINDOWS - 1))
            manifests = [extract(ctx, either.window(number)) for number in range(WINDOWS)]
            sizes[either.model] = [manifest.rows for manifest in manifests]
            counts[either.model] = [
                (manifest.late, manifest.early, manifest.gaps, manifest.rejected)
                for manifest in manifests
            ]
    assert sizes[twin.model] == [80] * WINDOWS
    assert sizes[harness.model] == [81] + [80] * (WINDOWS - 1)
    assert counts[twin.model] == [(0, 0, 0, 0)] * WINDOWS
    assert counts[harness.model] == [(0, 1, 0, 0)] + [(0, 0, 0, 0)] * (WINDOWS - 1)
    oracle.assert_consistent(harness)


def test_no_plan_and_no_byte_depends_on_the_hosts_clock(harness: ModelHarness) -> None:
    """Fault 16: the same stream on hosts a day ahead and a day behind, including open windows."""
    harness.produce_windows(-3, 2)
    with harness.open_model() as ctx:
        hosts = [_on_other_host(ctx, days) for days in (0, 1, -1)]
        for host in hosts:
            run_windows(host, 0, 0)
        harness.produce_windows(3, 4)
        for host in hosts:
            run_windows(host, 1, 3)
        expected, *others = [_stored_hashes(host) for host in hosts]
        assert len(expected) > 20
        for other in others:
            assert other == expected


def _on_other_host(ctx: ModelContext, days: int) -> ModelContext:
    """The same context on a host with an empty store and a clock this many days off."""

    def now() -> int:
        return ctx.clock() + days * 24 * 60 * MINUTE

    scratch = ctx.with_repository(ModelRepository(MemoryStore(), ctx.model))
    return replace(scratch, ledger=MemoryLedger(), clock=now)


def _stored_hashes(ctx: ModelContext) -> dict[str, str | None]:
    """The sha256 of each stored file, except those that depend on clock or ledger topic."""
    excluded = {"observations.json", "ledger/topic.json"}
    return {
        name: ctx.repository.hash(name) for name in ctx.repository.names("") if name not in excluded
    }
