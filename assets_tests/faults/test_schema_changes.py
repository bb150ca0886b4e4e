"""Schema changes of the stream: additions are ignored, breaking changes stop the model."""

import json
from typing import Any

import pytest

from faults.quarantine_checks import quarantined_records
from support.models import oracle
from support.models.harness import ModelHarness, events, run_window, run_windows
from tidemill.core.errors import PredecessorMissing, SchemaBroken
from tidemill.cycle.steps.extract import extract
from tidemill.cycle.steps.initial import initial
from tidemill.cycle.steps.update import update

REMOVED = object()


def produce_changed(harness: ModelHarness, number: int, **changes: Any) -> None:
    """Produce a window's events with fields set to a value, changed by a function or `REMOVED`."""
    for partition in range(harness.partitions):
        records = []
        for timestamp, value in events(number)[partition :: harness.partitions]:
            event = json.loads(value)
            for name, change in changes.items():
                event[name] = change(event[name]) if callable(change) else change
            fields = {k: v for k, v in event.items() if v is not REMOVED}
            records.append((timestamp, json.dumps(fields).encode()))
        harness.produce(partition, records)


def test_an_added_field_changes_nothing(harness: ModelHarness) -> None:
    """Fault 21: two additional fields in window 1 leave every row unchanged."""
    harness.produce_windows(-3, 0)
    produce_changed(harness, 1, coupon="SAVE10", basket={"items": [1, 2]})
    harness.produce_windows(2, 2)
    expected = [json.loads(value) for _, value in events(1)]
    with harness.open_model() as ctx:
        run_windows(ctx, 0, 1)
        rows = ctx.load_rows(extract(ctx, harness.window(1))).sort("_timestamp")
        assert rows.drop("_partition", "_offset", "_timestamp").rows(named=True) == expected
    oracle.assert_consistent(harness)


def test_a_removed_optional_field_is_null(harness: ModelHarness) -> None:
    """Fault 21: `visits` is declared `number?`."""
    harness.produce_windows(-3, 0)
    produce_changed(harness, 1, visits=REMOVED)
    harness.produce_windows(2, 3)
    with harness.open_model() as ctx:
        run_windows(ctx, 0, 2)
        manifest = ctx.repository.manifest(harness.window(1).key)
        assert manifest is not None
        assert (manifest.rows, manifest.missing["visits"]) == (200, 200)
        assert ctx.load_rows(manifest)["visits"].null_count() == 200
    oracle.assert_consistent(harness)


def test_a_field_missing_in_some_rows_is_null_in_them(harness: ModelHarness) -> None:
    """Fault 21: a field counts as removed only if no row of a window has it."""
    harness.produce_windows(-3, 0)
    produce_changed(harness, 1, price=lambda price: price if price > 50 else REMOVED)
    harness.produce_windows(2, 2)
    with harness.open_model() as ctx:
        run_windows(ctx, 0, 1)
        rows = ctx.load_rows(extract(ctx, harness.window(1)))
        assert 0 < rows["price"].null_count() < rows.height == 200
    oracle.assert_consistent(harness)


BROKEN = {
    "removed": ({"price": REMOVED}, r"None of the 200 rows .* has `price`", 0),
    "a number becomes text": (
        {"price": str},
        r"200 of 200 .*because `price`: expected number, got text",
        200,
    ),
    "text becomes a list": (
        {"country": lambda country: [country]},
        r"200 of 200 .*because `country`: expected text, got array",
        200,
    ),
    "a third of it changes": (
        {"price": lambda price: price if price < 67 else {"eur": price}},
        r"of 200 .*because `price`: expected number, got object",
        None,
    ),
    "the label is removed": ({"bought": REMOVED}, r"200 of 200 .*because `bought`: missing", 200),
    "the label becomes text": (
        {"bought": str},
        r"200 of 200 .*because `bought`: expected number or boolean, got text",
        200,
    ),
}


_QUICK = ("removed", "a number becomes text")


@pytest.mark.parametrize(
    ("changes", "message", "rejected"),
    [
        pytest.param(*case, id=name, marks=() if name in _QUICK else pytest.mark.faults)
        for name, case in BROKEN.items()
    ],
)
def test_a_removed_or_changed_field_is_reported_quarantined_and_not_learned(
    harness: ModelHarness, changes: dict[str, Any], message: str, rejected: int | None
) -> None:
    """Fault 21."""
    harness.produce_windows(-3, 0)
    produce_changed(harness, 1, **changes)
    harness.produce_windows(2, 2)
    with harness.open_model() as ctx:
        initial(ctx)
        run_window(ctx, 0)
        window = harness.window(1)
        for _ in range(2):  # a repeat gives the same error and quarantines the same bytes
            with pytest.raises(SchemaBroken, match=message):
                run_window(ctx, 1)
            reasons = quarantined_records(ctx, window.key)["reason"].drop_nulls()
            assert rejected is None or len(reasons) == rejected
        assert ctx.repository.manifest(window.key) is None
        with pytest.raises(PredecessorMissing, match="has no batch"):
            update(ctx, window)
    oracle.assert_consistent(harness)


def test_a_removed_field_that_is_declared_optional_is_learned_without(
    harness: ModelHarness,
) -> None:
    """Fault 21: the remedy of `SchemaBroken` suffices, and the lineage continues."""
    harness.produce_windows(-3, 0)
    produce_changed(harness, 1, price=REMOVED)
    harness.produce_windows(2, 2)
    with harness.open_model() as ctx:
        run_windows(ctx, 0, 0)
        with pytest.raises(SchemaBroken, match=r"declare `price: number\?` in defs.yaml"):
            run_window(ctx, 1)
    harness.define(fields={"country": "category", "price": "number?", "visits": "number?"})
    with harness.open_model() as ctx:
        run_window(ctx, 1)
        assert ctx.load_rows(extract(ctx, harness.window(1)))["price"].is_null().all()
        assert ctx.repository.plan(harness.window(1).key) is not None
    oracle.assert_consistent(harness)
