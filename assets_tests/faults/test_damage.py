"""Torn and flipped bytes: refused by digest, reported, and recreated identically or not at all."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from faults.topics import delete_before
from support.models import oracle
from support.models.harness import ModelHarness, run_window, run_windows
from support.models.store_snapshot import define_two_windows, file_stamps, take_snapshot
from tidemill.core.errors import DataLost, DigestMismatch, ParentInvalid
from tidemill.cycle.audit.verify import verify
from tidemill.cycle.context import ModelContext
from tidemill.cycle.steps.deploy import deploy
from tidemill.cycle.steps.evaluate import evaluate
from tidemill.cycle.steps.extract import extract
from tidemill.cycle.steps.initial import initial
from tidemill.cycle.steps.update import update

Damage = Callable[[bytes], bytes]


def flip_bit(fraction: float) -> Damage:
    """Flip one bit of the byte at this fraction of the file."""

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
    """The only file of the model's store that matches the pattern."""
    (path,) = (harness.settings.store / harness.model).glob(pattern)
    return path


@contextmanager
def damaged_file(path: Path, damage: Damage) -> Iterator[bytes]:
    """Damage a file until the end of the block; yields its original bytes."""
    original = path.read_bytes()
    path.write_bytes(damage(original))
    try:
        yield original
    finally:
        path.write_bytes(original)


def committed_files(harness: ModelHarness) -> list[Path]:
    """All committed files."""
    files = (p for p in (harness.settings.store / harness.model).rglob("*") if p.is_file())
    return sorted(p for p in files if p.name != "observations.json")


def test_verify_reports_every_file_with_a_flipped_bit(harness: ModelHarness) -> None:
    """Fault 5: after restoring the file there is no finding."""
    define_two_windows(harness)
    with harness.open_model() as ctx:
        run_windows(ctx, 0, 1)
        assert verify(ctx).findings == []
        for path in committed_files(harness):
            for damage in (truncate, flip_bit(0.5)):
                with damaged_file(path, damage):
                    findings = " ".join(verify(ctx).findings)
                    entry = f"Ledger entry {int(path.stem)} " if path.stem.isdigit() else "-"
                    assert path.name in findings or path.stem in findings or entry in findings
        assert verify(ctx).findings == []


@pytest.mark.faults
def test_damaged_files_are_recreated_with_the_same_bytes(harness: ModelHarness) -> None:
    """Fault 5: batches from Kafka, models and samples by retraining, records by their step."""
    define_two_windows(harness)
    with harness.open_model() as ctx:
        run_windows(ctx, 0, 1)
    expected = take_snapshot(harness)
    excluded = ("plans/", "ledger/")  # never recreated; see below and fault 27
    paths = [
        p for p in committed_files(harness) if not any(part in f"{p.parent}/" for part in excluded)
    ]
    kinds = {p.parent.name if p.suffix == ".bundle" else p.name.split("-")[0] for p in paths}
    assert {"rows", "rejected", "manifest.json", "models", "initial", "initial.json"} <= kinds
    for path in paths:
        for damage in DAMAGES.values():
            before = path.read_bytes()
            path.write_bytes(damage(before))
            with harness.open_model() as ctx:
                run_windows(ctx, 0, 1)
            assert path.read_bytes() == before, path
    assert take_snapshot(harness) == expected
    oracle.assert_consistent(harness)


@pytest.mark.parametrize("damage", [truncate, flip_bit(0.5)], ids=["torn", "flipped"])
def test_a_step_refuses_damaged_input_and_names_the_file(
    harness: ModelHarness, damage: Damage
) -> None:
    """Fault 5: by the step that reads the file, not by the step that can recreate it."""
    define_two_windows(harness)
    with harness.open_model() as ctx:
        run_windows(ctx, 0, 0)
        extract(ctx, harness.window(1))
    first, second = harness.window(0), harness.window(1)

    def assert_refused(name: str, step: Callable[[ModelContext], object]) -> None:
        path, before = single_file(harness, name), take_snapshot(harness)
        with (
            damaged_file(path, damage),
            harness.open_model() as ctx,
            pytest.raises(DigestMismatch, match=path.stem),
        ):
            step(ctx)
        assert take_snapshot(harness) == before

    assert_refused(f"plans/{second.key}.json", lambda ctx: extract(ctx, second))
    for name in (
        f"batches/{second.key}/manifest.json",
        f"batches/{second.key}/rows-*.parquet",
        "samples/initial-*.parquet",
        f"candidates/*/{first.key}.json",
        "initial.json",
    ):
        assert_refused(name, lambda ctx: update(ctx, second))
    with harness.open_model() as ctx:
        candidate = update(ctx, second)
    for name in (
        f"batches/{second.key}/rows-*.parquet",
        f"candidates/*/{second.key}.json",
        f"reports/{first.key}.json",
        f"models/{candidate.holdout}.bundle",
        f"models/{candidate.parent}.bundle",
    ):
        assert_refused(name, lambda ctx: evaluate(ctx, second))
    with harness.open_model() as ctx:
        evaluate(ctx, second)
    for name in (f"reports/{second.key}.json", f"models/{candidate.digest}.bundle"):
        assert_refused(name, lambda ctx: deploy(ctx, second, True))
    oracle.assert_consistent(harness)


@pytest.mark.parametrize("name", ["rows-*.parquet", "rejected-*.parquet", "manifest.json"])
def test_a_damaged_batch_that_expired_in_kafka_is_lost_and_not_replaced(
    harness: ModelHarness, name: str
) -> None:
    """Fault 5."""
    define_two_windows(harness)
    with harness.open_model() as ctx:
        run_windows(ctx, 0, 1)
        next_plan = ctx.repository.plan(harness.window(1).key)
        assert next_plan is not None
        delete_before(harness, next_plan.end_offsets)
        path = single_file(harness, f"batches/{harness.window(0).key}/{name}")
        for damage in DAMAGES.values():
            with damaged_file(path, damage):
                before = file_stamps(harness)
                with pytest.raises(DataLost, match=rf"{path.stem}.*[Oo]ffset"):
                    extract(ctx, harness.window(0))
                assert file_stamps(harness) == before
        run_windows(ctx, 0, 1)  # the file is restored
        assert verify(ctx).findings == []


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
    """Fault 23: once the parent is recreated by its own step, the digest is the same."""
    define_two_windows(harness)
    twin = harness.twin("undisturbed")
    with twin.open_model() as ctx:
        run_windows(ctx, 0, number)
        expected = update(ctx, harness.window(number))
    with harness.open_model() as ctx:
        initial(ctx)
        for earlier in range(number):
            run_window(ctx, earlier)
        extract(ctx, harness.window(number))
    parent, before = single_file(harness, f"models/{expected.parent}.bundle"), file_stamps(harness)
    for damage in (truncate, flip_bit(0.5), None):
        with harness.open_model() as ctx:
            parent.write_bytes(damage(parent.read_bytes())) if damage else parent.unlink()
            with pytest.raises(ParentInvalid, match=expected.parent):
                update(ctx, harness.window(number))
            assert file_stamps(harness).keys() <= before.keys() | _lineage_files(harness)
        with harness.open_model() as ctx:
            run_windows(ctx, 0, number - 1)  # recreates the parent
            assert ctx.load(expected.parent).digest == expected.parent
    with harness.open_model() as ctx:
        assert update(ctx, harness.window(number)) == expected
        run_window(ctx, number)
    assert take_snapshot(harness) == take_snapshot(twin)
    oracle.assert_consistent(harness)


def _lineage_files(harness: ModelHarness) -> set[Path]:
    return set((harness.settings.store / harness.model).glob("lineages/*"))
