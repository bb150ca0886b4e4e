"""Another gate over windows that are there: as if it had judged them, and nothing is touched."""

import json
from dataclasses import replace

import pytest

from bench import SPEC, Bench, run, window
from commands import command
from kept import kept, stamps
from tidemill import bootstrap
from tidemill.adapters.files import FileStore
from tidemill.core import canonical
from tidemill.core.errors import PredecessorMissing, SpecInvalid
from tidemill.core.specfile import with_gate_overrides
from tidemill.cycle.archive import ModelRepository
from tidemill.cycle.intervene import rollback
from tidemill.cycle.prune import prune
from tidemill.cycle.replay_gate import BacktestResult, backtest, windows_to_backtest
from tidemill.cycle.summary import summarize

LAST = 7


@pytest.fixture
def turned(bench: Bench) -> Bench:
    """Eight windows under `guarded`."""
    bench.define(gate={"min_rows": 50, "policy": "guarded"})
    bench.feed(-2, LAST + 1, rows=160)
    with bench.mill() as mill:
        run(mill, 0, LAST)
    return bench


def replayed(
    bench: Bench, *gate: str, first: int | None = None, last: int | None = None
) -> tuple[BacktestResult, ModelRepository]:
    spec = bench.spec_of()
    ends = [None if number is None else window(spec, number) for number in (first, last)]
    with bootstrap.open_model_readonly(bench.model, bench.settings) as (mill, scratch):
        windows = windows_to_backtest(mill, *ends)
        return backtest(mill, with_gate_overrides(spec, gate), scratch, windows, lambda _: None), scratch


def reports(archive: ModelRepository, bench: Bench, first: int, last: int) -> list[bytes]:
    found = [archive.report(bench.window(number).key) for number in range(first, last + 1)]
    return [canonical.encode(report) for report in found]


def test_the_same_gate_makes_the_same_reports_byte_for_byte_and_writes_nothing(
    turned: Bench,
) -> None:
    before, whole = stamps(turned), kept(turned)
    told, scratch = replayed(turned)
    stands = ModelRepository(FileStore(turned.settings.store), turned.model)
    assert reports(scratch, turned, 0, LAST) == reports(stands, turned, 0, LAST)
    assert told.verdict_changes == ()
    assert told.changes == {}
    assert told.committed == told.backtested
    assert told.committed.windows == LAST + 1
    later, scratch = replayed(turned, first=3, last=5)  # goes on from the state that stands
    assert reports(scratch, turned, 3, 5) == reports(stands, turned, 3, 5)
    assert (later.committed.first, later.committed.windows) == (turned.window(3).key, 3)
    assert stamps(turned) == before
    assert kept(turned) == whole


@pytest.mark.faults
def test_another_gate_ends_as_a_model_that_had_it_from_the_first_window_on(turned: Bench) -> None:
    twin = turned.twin("always")
    twin.define(gate={"min_rows": 50, "policy": "always"})
    with twin.mill() as mill:
        run(mill, 0, LAST)
        lived = summarize(mill, mill.spec.calendar.first, twin.window(LAST))
    told, scratch = replayed(turned, "policy: always")
    assert told.backtested == replace(lived, deployments=0)
    assert told.changes == {"policy": ("guarded", "always")}
    assert reports(scratch, turned, 0, LAST) == reports(
        ModelRepository(FileStore(twin.settings.store), twin.model), turned, 0, LAST
    )
    assert told.backtested.losses["champion"] == told.backtested.losses["challenger"]
    differing = {each.window: (each.committed, each.backtested) for each in told.verdict_changes}
    mine = [ModelRepository(FileStore(turned.settings.store), turned.model).report(k) for k in differing]
    assert [pair[0] for pair in differing.values()] == [r.verdict for r in mine if r is not None]
    assert differing


@pytest.mark.faults
def test_what_persons_decided_is_taken_and_what_was_pruned_is_left_out(turned: Bench) -> None:
    with turned.mill(by="ann") as mill:
        chain = mill.chain()
        deployed = [each.entry.digest for each in chain.entries]
        earlier = next(digest for digest in deployed if digest != deployed[-1])
        rollback(mill, earlier, "ann", "back to an earlier one")
        assert replayed(turned)[0].manual_entries == 0  # no report has taken it yet
        turned.feed(LAST + 2, LAST + 2, rows=160)
        run(mill, LAST + 1, LAST + 1)
    told, _ = replayed(turned)
    assert told.manual_entries == 1
    assert told.verdict_changes == ()
    turned.define(keep_windows=3)
    with turned.mill() as mill:
        assert prune(mill, turned.window(LAST + 1)) is not None
    told, _ = replayed(turned)
    assert told.pruned == turned.window(5).key
    assert (told.committed.first, told.committed.windows) == (turned.window(6).key, 3)
    with pytest.raises(PredecessorMissing, match="nothing to judge again"):
        replayed(turned, last=2)


@pytest.mark.faults
def test_the_command_compares_and_needs_no_kafka(turned: Bench) -> None:
    nowhere = turned.environment | {"TIDEMILL_KAFKA__BOOTSTRAP_SERVERS": "127.0.0.1:1"}
    words = ("tidemill", "replay", turned.model, "--gate", "policy=always")
    told = command(nowhere, *words, "--json")
    assert told.returncode == 0, told.stderr
    found = json.loads(told.stdout)
    assert found["changes"] == {"policy": ["guarded", "always"]}
    assert found["replayed"]["windows"] == LAST + 1
    shown = command(nowhere, *words)
    assert "loss as served" in shown.stdout
    assert "policy guarded → always" in shown.stdout
    wrong = command(nowhere, "tidemill", "replay", turned.model, "--gate", "min_efect=0")
    assert wrong.returncode == 2
    assert "did you mean `min_effect`?" in wrong.stderr


@pytest.mark.parametrize(
    ("texts", "told"),
    [
        (["min_efect: 0"], "unknown key `gate.min_efect`; did you mean `min_effect`"),
        (["min_effect: much"], "`gate.min_effect` is 'much'"),
        (["slices: [price]"], "`gate.slices`: 'price' is no category"),
        (["a: b: c"], "is not YAML"),
        (["[1]"], "is no mapping"),
    ],
)
def test_a_wrong_key_or_value_is_named(texts: list[str], told: str, bench: Bench) -> None:
    with pytest.raises(SpecInvalid) as caught:
        with_gate_overrides(bench.spec_of(), texts)
    assert told in caught.value.message


def test_later_texts_win_and_the_rest_stays_as_defs_yaml_says(bench: Bench) -> None:
    spec = with_gate_overrides(bench.spec_of(), ["min_effect: 0\npool: 9", "pool: 3"])
    assert (spec.gate.min_effect, spec.gate.pool_size) == (0, 3)
    assert spec.gate.min_rows == SPEC["gate"]["min_rows"]
    assert spec.model_copy(update={"gate": bench.spec_of().gate}) == bench.spec_of()
