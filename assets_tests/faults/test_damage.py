"""Torn and flipped bytes: refused by digest, named, and made again to the same, or not at all."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

import oracle
from model_harness import ModelHarness, run_window, run_windows
from store_snapshot import define_two_windows, file_stamps, take_snapshot
from tidemill.core.errors import DataLost, DigestMismatch, ParentInvalid
from tidemill.cycle.context import ModelContext
from tidemill.cycle.deploy import deploy
from tidemill.cycle.evaluate import evaluate
from tidemill.cycle.extract import extract
from tidemill.cycle.initial import initial
from tidemill.cycle.update import update
from tidemill.cycle.verify import verify
from topic_tools import delete_before

Damage = Callable[[bytes], bytes]


def flip_bit(fraction: float) -> Damage:
    """One bit of the byte at this share of the file."""

    def damage(data: bytes) -> bytes:
        index = min(int(len(data) * fraction), len(data) - 1)
        return data[:index] + bytes([data[index] ^ 1]) + data[index + 1 :]

    return damage


def truncate(data: bytes) -> bytes:
    return data[: len(data) // 2]


DAMAGES: Mapping[str, Damage] = {
    "torn": truncate,
    "flipped within the first line": lambda data: data[:30] + bytes([data[30] ^ 1]) + data[31:],
    "flipped in the middle": flip_bit(0.5),
    "flipped at the end": flip_bit(1),
}


def single_file(harness: ModelHarness, pattern: str) -> Path:
    """The one file of the model's store whose name fits."""
    (path,) = (harness.settings.store / harness.model).glob(pattern)
    return path


@contextmanager
def damaged_file(path: Path, damage: Damage) -> Iterator[bytes]:
    """The file, damaged; whole again at the end, whatever was done about it."""
    original = path.read_bytes()
    path.write_bytes(damage(original))
    try:
        yield original
    finally:
        path.write_bytes(original)


def committed_files(harness: ModelHarness) -> list[Path]:
    """All that is committed."""
    files = (p for p in (harness.settings.store / harness.model).rglob("*") if p.is_file())
    return sorted(p for p in files if p.name != "observations.json")


def test_verify_names_every_file_in_which_one_bit_is_wrong(harness: ModelHarness) -> None:
    """Row 5: and each is found whole again afterwards."""
    define_two_windows(harness)
    with harness.open_model() as mill:
        run_windows(mill, 0, 1)
        assert verify(mill).findings == []
        for path in committed_files(harness):
            for damage in (truncate, flip_bit(0.5)):
                with damaged_file(path, damage):
                    findings = " ".join(verify(mill).findings)
                    entry = f"Ledger entry {int(path.stem)} " if path.stem.isdigit() else "-"
                    assert path.name in findings or path.stem in findings or entry in findings
        assert verify(mill).findings == []


@pytest.mark.faults
def test_damaged_work_is_made_again_to_the_same_bytes(harness: ModelHarness) -> None:
    """Row 5: batches from Kafka, models and samples by learning again, records by their step."""
    define_two_windows(harness)
    with harness.open_model() as mill:
        run_windows(mill, 0, 1)
    whole = take_snapshot(harness)
    spared = ("plans/", "ledger/")  # never made again: see below, and row 27
    mended = [
        p for p in committed_files(harness) if not any(part in f"{p.parent}/" for part in spared)
    ]
    kinds = {p.parent.name if p.suffix == ".bundle" else p.name.split("-")[0] for p in mended}
    assert {"rows", "rejected", "manifest.json", "models", "initial", "initial.json"} <= kinds
    for path in mended:
        for damage in DAMAGES.values():
            before = path.read_bytes()
            path.write_bytes(damage(before))
            with harness.open_model() as mill:
                run_windows(mill, 0, 1)
            assert path.read_bytes() == before, path
    assert take_snapshot(harness) == whole
    oracle.assert_consistent(harness)


@pytest.mark.parametrize("damage", [truncate, flip_bit(0.5)], ids=["torn", "flipped"])
def test_whoever_meets_damaged_bytes_refuses_them_by_name(
    harness: ModelHarness, damage: Damage
) -> None:
    """Row 5: the step that needs them, not the one that can make them again."""
    define_two_windows(harness)
    with harness.open_model() as mill:
        run_windows(mill, 0, 0)
        extract(mill, harness.window(1))
    first, second = harness.window(0), harness.window(1)

    def refused(name: str, step: Callable[[ModelContext], object]) -> None:
        path, before = single_file(harness, name), take_snapshot(harness)
        with (
            damaged_file(path, damage),
            harness.open_model() as mill,
            pytest.raises(DigestMismatch, match=path.stem),
        ):
            step(mill)
        assert take_snapshot(harness) == before

    refused(f"plans/{second.key}.json", lambda mill: extract(mill, second))
    for name in (
        f"batches/{second.key}/manifest.json",
        f"batches/{second.key}/rows-*.parquet",
        "samples/initial-*.parquet",
        f"candidates/*/{first.key}.json",
        "initial.json",
    ):
        refused(name, lambda mill: update(mill, second))
    with harness.open_model() as mill:
        learned = update(mill, second)
    for name in (
        f"batches/{second.key}/rows-*.parquet",
        f"candidates/*/{second.key}.json",
        f"reports/{first.key}.json",
        f"models/{learned.holdout}.bundle",
        f"models/{learned.parent}.bundle",
    ):
        refused(name, lambda mill: evaluate(mill, second))
    with harness.open_model() as mill:
        evaluate(mill, second)
    for name in (f"reports/{second.key}.json", f"models/{learned.digest}.bundle"):
        refused(name, lambda mill: deploy(mill, second, True))
    oracle.assert_consistent(harness)


@pytest.mark.parametrize("name", ["rows-*.parquet", "rejected-*.parquet", "manifest.json"])
def test_a_damaged_batch_that_kafka_has_aged_out_is_lost_and_nothing_takes_its_place(
    harness: ModelHarness, name: str
) -> None:
    """Row 5."""
    define_two_windows(harness)
    with harness.open_model() as mill:
        run_windows(mill, 0, 1)
        after = mill.repository.plan(harness.window(1).key)
        assert after is not None
        delete_before(harness, after.end_offsets)
        path = single_file(harness, f"batches/{harness.window(0).key}/{name}")
        for damage in DAMAGES.values():
            with damaged_file(path, damage):
                before = file_stamps(harness)
                with pytest.raises(DataLost, match=rf"{path.stem}.*[Oo]ffset"):
                    extract(mill, harness.window(0))
                assert file_stamps(harness) == before
        run_windows(mill, 0, 1)  # the backup is back
        assert verify(mill).findings == []


@pytest.mark.parametrize(
    "number",
    [
        pytest.param(0, id="the initial model", marks=pytest.mark.faults),
        pytest.param(1, id="a candidate"),
    ],
)
def test_no_candidate_continues_a_parent_that_is_missing_or_tampered_with(
    harness: ModelHarness, number: int
) -> None:
    """Row 23: and once the parent is mended by its own step, the digest is the same."""
    define_two_windows(harness)
    twin = harness.twin("undisturbed")
    with twin.open_model() as mill:
        run_windows(mill, 0, number)
        wanted = update(mill, harness.window(number))
    with harness.open_model() as mill:
        initial(mill)
        for before in range(number):
            run_window(mill, before)
        extract(mill, harness.window(number))
    parent, standing = single_file(harness, f"models/{wanted.parent}.bundle"), file_stamps(harness)
    for damage in (truncate, flip_bit(0.5), None):
        with harness.open_model() as mill:
            parent.write_bytes(damage(parent.read_bytes())) if damage else parent.unlink()
            with pytest.raises(ParentInvalid, match=wanted.parent):
                update(mill, harness.window(number))
            assert file_stamps(harness).keys() <= standing.keys() | _lineage_files(harness)
        with harness.open_model() as mill:
            run_windows(mill, 0, number - 1)  # makes the parent again
            assert mill.load(wanted.parent).digest == wanted.parent
    with harness.open_model() as mill:
        assert update(mill, harness.window(number)) == wanted
        run_window(mill, number)
    assert take_snapshot(harness) == take_snapshot(twin)
    oracle.assert_consistent(harness)


def _lineage_files(harness: ModelHarness) -> set[Path]:
    return set((harness.settings.store / harness.model).glob("lines/*"))
