"""Torn and flipped bytes: refused by digest, named, and made again to the same, or not at all."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

import oracle
from bench import Bench, run, turn
from kept import define_two_windows, kept, stamps
from log_hands import expire
from tidemill.core.errors import DataLost, DigestMismatch, ParentInvalid
from tidemill.cycle.deploy import deploy
from tidemill.cycle.evaluate import evaluate
from tidemill.cycle.extract import extract
from tidemill.cycle.initial import initial
from tidemill.cycle.mill import ModelContext
from tidemill.cycle.update import update
from tidemill.cycle.verify import verify

Damage = Callable[[bytes], bytes]


def flipped(at: float) -> Damage:
    """One bit of the byte at this share of the file."""

    def damage(data: bytes) -> bytes:
        place = min(int(len(data) * at), len(data) - 1)
        return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]

    return damage


def torn(data: bytes) -> bytes:
    return data[: len(data) // 2]


DAMAGES: Mapping[str, Damage] = {
    "torn": torn,
    "flipped within the first line": lambda data: data[:30] + bytes([data[30] ^ 1]) + data[31:],
    "flipped in the middle": flipped(0.5),
    "flipped at the end": flipped(1),
}


def file_of(bench: Bench, pattern: str) -> Path:
    """The one file of the model's store whose name fits."""
    (found,) = (bench.settings.store / bench.model).glob(pattern)
    return found


@contextmanager
def damaged(path: Path, damage: Damage) -> Iterator[bytes]:
    """The file, damaged; whole again at the end, whatever was done about it."""
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    try:
        yield whole
    finally:
        path.write_bytes(whole)


def every(bench: Bench) -> list[Path]:
    """All that is committed."""
    files = (p for p in (bench.settings.store / bench.model).rglob("*") if p.is_file())
    return sorted(p for p in files if p.name != "observations.json")


def test_verify_names_every_file_in_which_one_bit_is_wrong(bench: Bench) -> None:
    """Row 5: and each is found whole again afterwards."""
    define_two_windows(bench)
    with bench.mill() as mill:
        run(mill, 0, 1)
        assert verify(mill).findings == []
        for path in every(bench):
            for damage in (torn, flipped(0.5)):
                with damaged(path, damage):
                    findings = " ".join(verify(mill).findings)
                    entry = f"Ledger entry {int(path.stem)} " if path.stem.isdigit() else "-"
                    assert path.name in findings or path.stem in findings or entry in findings
        assert verify(mill).findings == []


@pytest.mark.faults
def test_damaged_work_is_made_again_to_the_same_bytes(bench: Bench) -> None:
    """Row 5: batches from Kafka, models and samples by learning again, records by their step."""
    define_two_windows(bench)
    with bench.mill() as mill:
        run(mill, 0, 1)
    whole = kept(bench)
    spared = ("plans/", "ledger/")  # never made again: see below, and row 27
    mended = [p for p in every(bench) if not any(part in f"{p.parent}/" for part in spared)]
    kinds = {p.parent.name if p.suffix == ".bundle" else p.name.split("-")[0] for p in mended}
    assert {"rows", "rejected", "manifest.json", "models", "initial", "initial.json"} <= kinds
    for path in mended:
        for damage in DAMAGES.values():
            before = path.read_bytes()
            path.write_bytes(damage(before))
            with bench.mill() as mill:
                run(mill, 0, 1)
            assert path.read_bytes() == before, path
    assert kept(bench) == whole
    oracle.check(bench)


@pytest.mark.parametrize("damage", [torn, flipped(0.5)], ids=["torn", "flipped"])
def test_whoever_meets_damaged_bytes_refuses_them_by_name(bench: Bench, damage: Damage) -> None:
    """Row 5: the step that needs them, not the one that can make them again."""
    define_two_windows(bench)
    with bench.mill() as mill:
        run(mill, 0, 0)
        extract(mill, bench.window(1))
    first, second = bench.window(0), bench.window(1)

    def refused(name: str, step: Callable[[ModelContext], object]) -> None:
        path, before = file_of(bench, name), kept(bench)
        with (
            damaged(path, damage),
            bench.mill() as mill,
            pytest.raises(DigestMismatch, match=path.stem),
        ):
            step(mill)
        assert kept(bench) == before

    refused(f"plans/{second.key}.json", lambda mill: extract(mill, second))
    for name in (
        f"batches/{second.key}/manifest.json",
        f"batches/{second.key}/rows-*.parquet",
        "samples/initial-*.parquet",
        f"candidates/*/{first.key}.json",
        "initial.json",
    ):
        refused(name, lambda mill: update(mill, second))
    with bench.mill() as mill:
        learned = update(mill, second)
    for name in (
        f"batches/{second.key}/rows-*.parquet",
        f"candidates/*/{second.key}.json",
        f"reports/{first.key}.json",
        f"models/{learned.holdout}.bundle",
        f"models/{learned.parent}.bundle",
    ):
        refused(name, lambda mill: evaluate(mill, second))
    with bench.mill() as mill:
        evaluate(mill, second)
    for name in (f"reports/{second.key}.json", f"models/{learned.digest}.bundle"):
        refused(name, lambda mill: deploy(mill, second, True))
    oracle.check(bench)


@pytest.mark.parametrize("name", ["rows-*.parquet", "rejected-*.parquet", "manifest.json"])
def test_a_damaged_batch_that_kafka_has_aged_out_is_lost_and_nothing_takes_its_place(
    bench: Bench, name: str
) -> None:
    """Row 5."""
    define_two_windows(bench)
    with bench.mill() as mill:
        run(mill, 0, 1)
        after = mill.repository.plan(bench.window(1).key)
        assert after is not None
        expire(bench, after.end_offsets)
        path = file_of(bench, f"batches/{bench.window(0).key}/{name}")
        for damage in DAMAGES.values():
            with damaged(path, damage):
                before = stamps(bench)
                with pytest.raises(DataLost, match=rf"{path.stem}.*[Oo]ffset"):
                    extract(mill, bench.window(0))
                assert stamps(bench) == before
        run(mill, 0, 1)  # the backup is back
        assert verify(mill).findings == []


@pytest.mark.parametrize(
    "number",
    [
        pytest.param(0, id="the initial model", marks=pytest.mark.faults),
        pytest.param(1, id="a candidate"),
    ],
)
def test_no_candidate_continues_a_parent_that_is_missing_or_tampered_with(
    bench: Bench, number: int
) -> None:
    """Row 23: and once the parent is mended by its own step, the digest is the same."""
    define_two_windows(bench)
    twin = bench.twin("undisturbed")
    with twin.mill() as mill:
        run(mill, 0, number)
        wanted = update(mill, bench.window(number))
    with bench.mill() as mill:
        initial(mill)
        for before in range(number):
            turn(mill, before)
        extract(mill, bench.window(number))
    parent, standing = file_of(bench, f"models/{wanted.parent}.bundle"), stamps(bench)
    for damage in (torn, flipped(0.5), None):
        with bench.mill() as mill:
            parent.write_bytes(damage(parent.read_bytes())) if damage else parent.unlink()
            with pytest.raises(ParentInvalid, match=wanted.parent):
                update(mill, bench.window(number))
            assert stamps(bench).keys() <= standing.keys() | _line(bench)
        with bench.mill() as mill:
            run(mill, 0, number - 1)  # makes the parent again
            assert mill.load(wanted.parent).digest == wanted.parent
    with bench.mill() as mill:
        assert update(mill, bench.window(number)) == wanted
        turn(mill, number)
    assert kept(bench) == kept(twin)
    oracle.check(bench)


def _line(bench: Bench) -> set[Path]:
    return set((bench.settings.store / bench.model).glob("lines/*"))
