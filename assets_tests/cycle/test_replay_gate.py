"""Another gate over windows that are there: as if it had judged them, and nothing is touched."""

import json
from dataclasses import replace

import pytest

from model_harness import SPEC, ModelHarness, run_windows, window
from processes import run_command
from store_snapshot import file_stamps, take_snapshot
from tidemill import bootstrap
from tidemill.adapters.files import FileStore
from tidemill.core import canonical
from tidemill.core.errors import PredecessorMissing, SpecInvalid
from tidemill.core.spec_parser import with_gate_overrides
from tidemill.cycle.backtest import BacktestResult, backtest, windows_to_backtest
from tidemill.cycle.manual_actions import rollback
from tidemill.cycle.prune import prune
from tidemill.cycle.repository import ModelRepository
from tidemill.cycle.summary import summarize

LAST = 7


@pytest.fixture
def trained_harness(harness: ModelHarness) -> ModelHarness:
    """Eight windows under `guarded`."""
    harness.define(gate={"min_rows": 50, "policy": "guarded"})
    harness.produce_windows(-2, LAST + 1, rows=160)
    with harness.open_model() as ctx:
        run_windows(ctx, 0, LAST)
    return harness


def run_backtest(
    harness: ModelHarness, *gate: str, first: int | None = None, last: int | None = None
) -> tuple[BacktestResult, ModelRepository]:
    spec = harness.load_spec()
    bounds = [None if number is None else window(spec, number) for number in (first, last)]
    with bootstrap.open_model_readonly(harness.model, harness.settings) as (ctx, scratch):
        windows = windows_to_backtest(ctx, *bounds)
        return backtest(
            ctx, with_gate_overrides(spec, gate), scratch, windows, lambda _: None
        ), scratch


def encoded_reports(
    repository: ModelRepository, harness: ModelHarness, first: int, last: int
) -> list[bytes]:
    loaded = [repository.report(harness.window(number).key) for number in range(first, last + 1)]
    return [canonical.encode(report) for report in loaded]


def test_the_same_gate_makes_the_same_reports_byte_for_byte_and_writes_nothing(
    trained_harness: ModelHarness,
) -> None:
    before, whole = file_stamps(trained_harness), take_snapshot(trained_harness)
    told, scratch = run_backtest(trained_harness)
    stands = ModelRepository(FileStore(trained_harness.settings.store), trained_harness.model)
    assert encoded_reports(scratch, trained_harness, 0, LAST) == encoded_reports(
        stands, trained_harness, 0, LAST
    )
    assert told.verdict_changes == ()
    assert told.changes == {}
    assert told.committed == told.backtested
    assert told.committed.windows == LAST + 1
    later, scratch = run_backtest(
        trained_harness, first=3, last=5
    )  # goes on from the state that stands
    assert encoded_reports(scratch, trained_harness, 3, 5) == encoded_reports(
        stands, trained_harness, 3, 5
    )
    assert (later.committed.first, later.committed.windows) == (trained_harness.window(3).key, 3)
    assert file_stamps(trained_harness) == before
    assert take_snapshot(trained_harness) == whole


@pytest.mark.faults
def test_another_gate_ends_as_a_model_that_had_it_from_the_first_window_on(
    trained_harness: ModelHarness,
) -> None:
    twin = trained_harness.twin("always")
    twin.define(gate={"min_rows": 50, "policy": "always"})
    with twin.open_model() as mill:
        run_windows(mill, 0, LAST)
        lived = summarize(mill, mill.spec.calendar.first, twin.window(LAST))
    told, scratch = run_backtest(trained_harness, "policy: always")
    assert told.backtested == replace(lived, deployments=0)
    assert told.changes == {"policy": ("guarded", "always")}
    assert encoded_reports(scratch, trained_harness, 0, LAST) == encoded_reports(
        ModelRepository(FileStore(twin.settings.store), twin.model), trained_harness, 0, LAST
    )
    assert told.backtested.losses["champion"] == told.backtested.losses["challenger"]
    differing = {each.window: (each.committed, each.backtested) for each in told.verdict_changes}
    mine = [
        ModelRepository(FileStore(trained_harness.settings.store), trained_harness.model).report(k)
        for k in differing
    ]
    assert [pair[0] for pair in differing.values()] == [r.verdict for r in mine if r is not None]
    assert differing


@pytest.mark.faults
def test_what_persons_decided_is_taken_and_what_was_pruned_is_left_out(
    trained_harness: ModelHarness,
) -> None:
    with trained_harness.open_model(by="ann") as mill:
        chain = mill.chain()
        deployed = [each.entry.digest for each in chain.entries]
        earlier = next(digest for digest in deployed if digest != deployed[-1])
        rollback(mill, earlier, "ann", "back to an earlier one")
        assert run_backtest(trained_harness)[0].manual_entries == 0  # no report has taken it yet
        trained_harness.produce_windows(LAST + 2, LAST + 2, rows=160)
        run_windows(mill, LAST + 1, LAST + 1)
    told, _ = run_backtest(trained_harness)
    assert told.manual_entries == 1
    assert told.verdict_changes == ()
    trained_harness.define(retention_windows=3)
    with trained_harness.open_model() as mill:
        assert prune(mill, trained_harness.window(LAST + 1)) is not None
    told, _ = run_backtest(trained_harness)
    assert told.pruned == trained_harness.window(5).key
    assert (told.committed.first, told.committed.windows) == (trained_harness.window(6).key, 3)
    with pytest.raises(PredecessorMissing, match="nothing to judge again"):
        run_backtest(trained_harness, last=2)


@pytest.mark.faults
def test_the_command_compares_and_needs_no_kafka(trained_harness: ModelHarness) -> None:
    nowhere = trained_harness.env | {"TIDEMILL_KAFKA__BOOTSTRAP_SERVERS": "127.0.0.1:1"}
    words = ("tidemill", "replay", trained_harness.model, "--gate", "policy=always")
    told = run_command(nowhere, *words, "--json")
    assert told.returncode == 0, told.stderr
    found = json.loads(told.stdout)
    assert found["changes"] == {"policy": ["guarded", "always"]}
    assert found["replayed"]["windows"] == LAST + 1
    shown = run_command(nowhere, *words)
    assert "loss as served" in shown.stdout
    assert "policy guarded → always" in shown.stdout
    wrong = run_command(
        nowhere, "tidemill", "replay", trained_harness.model, "--gate", "min_efect=0"
    )
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
def test_a_wrong_key_or_value_is_named(texts: list[str], told: str, harness: ModelHarness) -> None:
    with pytest.raises(SpecInvalid) as caught:
        with_gate_overrides(harness.load_spec(), texts)
    assert told in caught.value.message


def test_later_texts_win_and_the_rest_stays_as_defs_yaml_says(harness: ModelHarness) -> None:
    spec = with_gate_overrides(harness.load_spec(), ["min_effect: 0\npool: 9", "pool: 3"])
    assert (spec.gate.min_effect, spec.gate.pool_size) == (0, 3)
    assert spec.gate.min_rows == SPEC["gate"]["min_rows"]
    assert spec.model_copy(update={"gate": harness.load_spec().gate}) == harness.load_spec()
