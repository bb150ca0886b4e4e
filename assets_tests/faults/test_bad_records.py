"""Bad records: each is kept or rejected by itself, and too many of them stop a window."""

from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

import oracle
from model_harness import MINUTE, START, ModelHarness, events, run_window, run_windows
from quarantine_checks import quarantined_records
from tidemill.core.errors import PredecessorMissing, TooManyRejects
from tidemill.core.parquet import from_parquet
from tidemill.cycle.context import ModelContext
from tidemill.cycle.extract import extract, load_rows
from tidemill.cycle.initial import initial
from tidemill.cycle.manual_actions import skip
from tidemill.cycle.update import update

GOOD = b'{"country":"de","price":12.5,"visits":3,"bought":true}'
LARGE = b'{"country":"de","price":12.5,"bought":true,"note":"' + b"x" * 3_000_000 + b'"}'
DEEP = b'{"country":"de","bought":true,"note":' + b"[" * 10_000 + b"]" * 10_000 + b"}"

STRANGE: dict[str, tuple[bytes | None, str | None]] = {
    "tombstone": (None, "tombstone"),
    "empty": (b"", "empty value"),
    "cut off": (GOOD[:-5], "not JSON"),
    "rubbish": (bytes(range(256)), "not JSON"),
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
    """Window 0 into partition 0, a strange record after every fifth; what lies at which offset."""
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
    return load_rows(ctx, extract(ctx, harness.window(number)))


def without_offsets(frame: pl.DataFrame) -> pl.DataFrame:
    """What rows say, without their places in the log."""
    return frame.drop("_offset")


def test_a_bad_record_is_rejected_by_itself_and_never_changes_its_neighbours(
    harness: ModelHarness, kafka_folder: Path
) -> None:
    """Row 20. The same windows go through a second model without the strange records."""
    with_them, without = harness, replace(harness, model=f"{harness.model}_clean")
    without.create_topic()
    for each in (with_them, without):
        each.define(max_reject_share=0.2)
    without.produce_windows(-3, 2)
    with_them.produce_windows(-3, -1)
    before = len(events(0)[::2]) * 3
    strange = {before + at: what for at, what in produce_with_strange_records(with_them).items()}
    with_them.produce(1, events(0)[1::2])
    with_them.produce_windows(1, 2)
    with with_them.open_model() as mill, without.open_model() as other:
        run_windows(mill, 0, 1)
        run_windows(other, 0, 1)
        found = extract_rows(mill, with_them, 0)
        bad = pl.col("_partition").eq(0) & pl.col("_offset").is_in(list(strange))
        assert without_offsets(found.filter(~bad)).equals(
            without_offsets(extract_rows(other, without, 0))
        )
        assert without_offsets(extract_rows(mill, with_them, 1)).equals(
            without_offsets(extract_rows(other, without, 1))
        )
        kept = found.filter(bad)
        assert kept["_offset"].to_list() == [o for o, (_, why) in strange.items() if why is None]
        assert set(kept["price"]) == {12.5, 1e308}
        assert "d\ne" in kept["country"].to_list()

        manifest = extract(mill, with_them.window(0))
        assert manifest.rejected_file is not None
        rejected = from_parquet(mill.repository.file(manifest.rejected_file))
        assert rejected.select("_offset", "value", "reason").rows() == [
            (offset, value, why) for offset, (value, why) in strange.items() if why is not None
        ]
        assert manifest.gaps == 0
    oracle.assert_consistent(with_them)
    assert oracle.assert_matches_log(with_them, kafka_folder) > 1000


def test_records_with_no_key_and_with_one_key_for_all_are_rows_each(harness: ModelHarness) -> None:
    """Row 20: the key says nothing about a row, and the same event twice is two rows."""
    harness.produce_windows(-3, -1)
    harness.produce(0, [(LATER, GOOD)] * 3)
    harness.produce(0, [(LATER, GOOD)] * 4, key=b"the same")
    harness.produce(1, [(LATER, GOOD)] * 5, key=b"")
    harness.produce_windows(1, 2)
    with harness.open_model() as mill:
        run_windows(mill, 0, 0)
        assert extract_rows(mill, harness, 0)["_partition"].value_counts(sort=True).rows() == [
            (0, 7),
            (1, 5),
        ]
    oracle.assert_consistent(harness)


def test_beyond_the_limit_nothing_is_learned_and_after_a_skip_it_goes_on(
    harness: ModelHarness, kafka_folder: Path
) -> None:
    """Row 20."""
    harness.produce_windows(-3, 1)
    harness.produce(0, [(START + 9 * MINUTE, b"{")] * 60)
    harness.produce_windows(2, 4)
    with harness.open_model() as mill:
        initial(mill)
        run_window(mill, 0)
        one = harness.window(1)
        with pytest.raises(
            TooManyRejects, match=r"60 of 260 records.*because not JSON.*tidemill skip"
        ):
            run_window(mill, 1)
        assert mill.repository.manifest(one.key) is None
        with pytest.raises(PredecessorMissing, match="has no batch"):
            update(mill, one)
        with pytest.raises(PredecessorMissing, match="has no candidate"):
            run_window(mill, 2)
        assert (
            quarantined_records(mill, one.key)["reason"].drop_nulls().to_list() == ["not JSON"] * 60
        )

        skip(mill, one, "ada", "the shop's logger was broken")
        run_windows(mill, 1, 3)
        manifest = mill.repository.manifest(one.key)
        assert manifest is not None
        assert manifest.skipped is not None
        assert (manifest.rows, manifest.skipped.actor) == (0, "ada")
    assert oracle.assert_consistent(harness).recomputed == 4
    oracle.assert_matches_log(harness, kafka_folder)
