"""Malformed records: each is accepted or rejected separately, and too many stop a window."""

from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

from faults.quarantine_checks import quarantined_records
from support.models import oracle
from support.models.harness import MINUTE, START, ModelHarness, events, run_window, run_windows
from tidemill.core.errors import PredecessorMissing, TooManyRejects
from tidemill.core.parquet import from_parquet
from tidemill.cycle.context import ModelContext
from tidemill.cycle.operations.manual_actions import skip
from tidemill.cycle.steps.extract import extract
from tidemill.cycle.steps.initial import initial
from tidemill.cycle.steps.update import update

GOOD = b'{"country":"de","price":12.5,"visits":3,"bought":true}'
LARGE = b'{"country":"de","price":12.5,"bought":true,"note":"' + b"x" * 3_000_000 + b'"}'
DEEP = b'{"country":"de","bought":true,"note":' + b"[" * 10_000 + b"]" * 10_000 + b"}"

STRANGE: dict[str, tuple[bytes | None, str | None]] = {
    "tombstone": (None, "tombstone"),
    "empty": (b"", "empty value"),
    "cut off": (GOOD[:-5], "not JSON"),
    "random bytes": (bytes(range(256)), "not JSON"),
    "NaN": (GOOD.replace(b"12.5", b"NaN"), "not JSON"),
    "Infinity": (GOOD.replace(b"12.5", b"-Infinity"), "not JSON"),
    "NaN label": (GOOD.replace(b"true", b"NaN"), "not JSON"),
    "1e308": (GOOD.replace(b"12.5", b"1e308"), None),
    "1e999": (GOOD.replace(b"12.5", b"1e999"), "`price`: out of range"),
    "bad UTF-8": (GOOD.replace(b"de", b"\xff\xfe"), "not UTF-8"),
    "bare newline in a text": (GOOD.replace(b"de", b"d\ne"), "not JSON"),
    "newline between fields": (GOOD.replace(b",", b",\n"), None),
    "escaped newline": (GOOD.replace(b"de", b"d\\ne"), None),
    "two documents": (GOOD + GOOD, "not JSON"),
    "two lines": (GOOD + b"\n" + GOOD, "not JSON"),
    "deep": (DEEP, "nested too deeply"),
    "3 MB": (LARGE, None),
    "3 MB cut off": (LARGE[:-1], "not JSON"),
    "label of another class": (GOOD.replace(b"true", b"2"), "`bought`: outside its classes"),
}
LATER = START + 2 * MINUTE


def produce_with_strange_records(
    harness: ModelHarness,
) -> dict[int, tuple[bytes | None, str | None]]:
    """Produce window 0 to partition 0 with a strange record after every fifth; those by offset."""
    strange, strange_by_offset = list(STRANGE.values()), {}
    records: list[tuple[int, bytes | None]] = []
    for number, record in enumerate(events(0)[::2]):
        records.append(record)
        if number % 5 == 0 and strange:
            strange_by_offset[len(records)] = strange.pop()
            records.append((record[0], strange_by_offset[len(records)][0]))
    assert not strange
    harness.produce(0, records)
    return strange_by_offset


def extract_rows(ctx: ModelContext, harness: ModelHarness, number: int) -> pl.DataFrame:
    return ctx.load_rows(extract(ctx, harness.window(number)))


def without_offsets(frame: pl.DataFrame) -> pl.DataFrame:
    """The rows without their offsets."""
    return frame.drop("_offset")


def test_a_bad_record_is_rejected_alone_and_never_changes_its_neighbours(
    harness: ModelHarness, kafka_folder: Path
) -> None:
    """Fault 20: compared with a second model whose topic lacks the strange records."""
    with_strange, clean = harness, replace(harness, model=f"{harness.model}_clean")
    clean.create_topic()
    for either in (with_strange, clean):
        either.define(max_reject_share=0.2)
    clean.produce_windows(-3, 2)
    with_strange.produce_windows(-3, -1)
    before = len(events(0)[::2]) * 3
    strange = {
        before + offset: record
        for offset, record in produce_with_strange_records(with_strange).items()
    }
    with_strange.produce(1, events(0)[1::2])
    with_strange.produce_windows(1, 2)
    with with_strange.open_model() as ctx, clean.open_model() as clean_ctx:
        run_windows(ctx, 0, 1)
        run_windows(clean_ctx, 0, 1)
        rows = extract_rows(ctx, with_strange, 0)
        bad = pl.col("_partition").eq(0) & pl.col("_offset").is_in(list(strange))
        assert without_offsets(rows.filter(~bad)).equals(
            without_offsets(extract_rows(clean_ctx, clean, 0))
        )
        assert without_offsets(extract_rows(ctx, with_strange, 1)).equals(
            without_offsets(extract_rows(clean_ctx, clean, 1))
        )
        accepted = rows.filter(bad)
        assert accepted["_offset"].to_list() == [
            o for o, (_, reason) in strange.items() if reason is None
        ]
        assert set(accepted["price"]) == {12.5, 1e308}
        assert "d\ne" in accepted["country"].to_list()

        manifest = extract(ctx, with_strange.window(0))
        assert manifest.rejected_file is not None
        rejected = from_parquet(ctx.repository.file(manifest.rejected_file))
        assert rejected.select("_offset", "value", "reason").rows() == [
            (offset, value, reason)
            for offset, (value, reason) in strange.items()
            if reason is not None
        ]
        assert manifest.gaps == 0
    oracle.assert_consistent(with_strange)
    assert oracle.assert_matches_log(with_strange, kafka_folder) > 1000


def test_records_without_key_or_with_the_same_key_are_separate_rows(harness: ModelHarness) -> None:
    """Fault 20: the key does not identify a row; the same event twice is two rows."""
    harness.produce_windows(-3, -1)
    harness.produce(0, [(LATER, GOOD)] * 3)
    harness.produce(0, [(LATER, GOOD)] * 4, key=b"the same")
    harness.produce(1, [(LATER, GOOD)] * 5, key=b"")
    harness.produce_windows(1, 2)
    with harness.open_model() as ctx:
        run_windows(ctx, 0, 0)
        assert extract_rows(ctx, harness, 0)["_partition"].value_counts(sort=True).rows() == [
            (0, 7),
            (1, 5),
        ]
    oracle.assert_consistent(harness)


def test_a_window_beyond_the_reject_limit_is_not_learned_and_can_be_skipped(
    harness: ModelHarness, kafka_folder: Path
) -> None:
    """Fault 20."""
    harness.produce_windows(-3, 1)
    harness.produce(0, [(START + 9 * MINUTE, b"{")] * 60)
    harness.produce_windows(2, 4)
    with harness.open_model() as ctx:
        initial(ctx)
        run_window(ctx, 0)
        window = harness.window(1)
        with pytest.raises(
            TooManyRejects, match=r"60 of 260 records.*because not JSON.*tidemill skip"
        ):
            run_window(ctx, 1)
        assert ctx.repository.manifest(window.key) is None
        with pytest.raises(PredecessorMissing, match="has no batch"):
            update(ctx, window)
        with pytest.raises(PredecessorMissing, match="has no candidate"):
            run_window(ctx, 2)
        assert (
            quarantined_records(ctx, window.key)["reason"].drop_nulls().to_list()
            == ["not JSON"] * 60
        )

        skip(ctx, window, "ada", "the shop's logger was broken")
        run_windows(ctx, 1, 3)
        manifest = ctx.repository.manifest(window.key)
        assert manifest is not None
        assert manifest.skipped is not None
        assert (manifest.rows, manifest.skipped.actor) == (0, "ada")
    assert oracle.assert_consistent(harness).recomputed == 4
    oracle.assert_matches_log(harness, kafka_folder)
