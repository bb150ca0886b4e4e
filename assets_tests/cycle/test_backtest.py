"""Backtests: another gate decides as if it had been in use, and nothing stored is changed."""

import json
from dataclasses import replace

import pytest

from support.models.harness import SPEC, ModelHarness, run_windows, window
from support.models.store_snapshot import file_stamps, take_snapshot
from support.processes.commands import run_command
from tidemill import bootstrap
from tidemill.adapters.files import FileStore
from tidemill.core import canonical
from tidemill.core.errors import PredecessorMissing, SpecInvalid
from tidemill.core.spec_parser import with_gate_overrides
from tidemill.cycle.operations.backtest import BacktestResult, backtest, windows_to_backtest
from tidemill.cycle.operations.manual_actions import approve, rollback
from tidemill.cycle.operations.prune import prune
from tidemill.cycle.operations.summary import summarize
from tidemill.cycle.repository import ModelRepository

LAST = 7


@pytest.fixture
def trained_harness(harness: ModelHarness) -> ModelHarness:
    """Eight windows under the policy `guarded`."""
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
    with bootstrap.open_model_readonly(harness.load_spec(), harness.settings) as (ctx, scratch):
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
    stamps, snapshot = file_stamps(trained_harness), take_snapshot(trained_harness)
    result, scratch = run_backtest(trained_harness)
    committed = ModelRepository(FileStore(trained_harness.settings.store), trained_harness.model)
    assert encoded_reports(scratch, trained_harness, 0, LAST) == encoded_reports(
        committed, trained_harness, 0, LAST
    )
    assert result.verdict_changes == ()
    assert result.changes == {}
    assert result.committed == result.backtested
    assert result.committed.windows == LAST + 1
    # A later range continues from the committed state before it.
    later, scratch = run_backtest(trained_harness, first=3, last=5)
    assert encoded_reports(scratch, trained_harness, 3, 5) == encoded_reports(
        committed, trained_harness, 3, 5
    )
    assert (later.committed.first, later.committed.windows) == (trained_harness.window(3).key, 3)
    assert file_stamps(trained_harness) == stamps
    assert take_snapshot(trained_harness) == snapshot


@pytest.mark.faults
def test_another_gate_gives_the_reports_of_a_model_that_had_it_from_the_first_window(
    trained_harness: ModelHarness,
) -> None:
    twin = trained_harness.twin("always")
    twin.define(gate={"min_rows": 50, "policy": "always"})
    with twin.open_model() as ctx:
        run_windows(ctx, 0, LAST)
        expected = summarize(ctx, ctx.spec.calendar.first, twin.window(LAST))
    result, scratch = run_backtest(trained_harness, "policy: always")
    assert result.backtested == replace(expected, deployments=0)
    assert result.changes == {"policy": ("guarded", "always")}
    assert encoded_reports(scratch, trained_harness, 0, LAST) == encoded_reports(
        ModelRepository(FileStore(twin.settings.store), twin.model), trained_harness, 0, LAST
    )
    assert result.backtested.losses["champion"] == result.backtested.losses["challenger"]
    committed = ModelRepository(FileStore(trained_harness.settings.store), trained_harness.model)
    reports = [committed.report(change.window) for change in result.verdict_changes]
    assert [change.committed for change in result.verdict_changes] == [
        report.verdict for report in reports if report is not None
    ]
    assert result.verdict_changes


@pytest.mark.faults
def test_a_backtest_applies_manual_entries_and_leaves_out_pruned_windows(
    trained_harness: ModelHarness,
) -> None:
    with trained_harness.open_model(actor="ann") as ctx:
        head, windows = ctx.chain().head, (window(ctx.spec, number) for number in range(LAST))
        assert head is not None
        digests = [ctx.records.require_candidate(earlier).digest for earlier in windows]
        approve(ctx, next(d for d in digests if d != head.entry.digest), "ann", "a good one")
        rollback(ctx, ctx.chain().entries[0].entry.digest, "ann", "back to the first one")
        assert run_backtest(trained_harness)[0].manual_entries == 0  # no report has applied it yet
        trained_harness.produce_windows(LAST + 2, LAST + 2, rows=160)
        run_windows(ctx, LAST + 1, LAST + 1)
    result, _ = run_backtest(trained_harness)
    assert result.manual_entries == 2
    assert result.verdict_changes == ()
    trained_harness.define(retention_windows=3)
    with trained_harness.open_model() as ctx:
        assert prune(ctx, trained_harness.window(LAST + 1)) is not None
    result, _ = run_backtest(trained_harness)
    assert result.pruned == trained_harness.window(5).key
    assert (result.committed.first, result.committed.windows) == (trained_harness.window(6).key, 3)
    with pytest.raises(PredecessorMissing, match="nothing to evaluate again"):
        run_backtest(trained_harness, last=2)


@pytest.mark.faults
def test_the_command_compares_and_needs_no_kafka(trained_harness: ModelHarness) -> None:
    env = trained_harness.env | {"TIDEMILL_KAFKA__BOOTSTRAP_SERVERS": "127.0.0.1:1"}
    command = ("tidemill", "backtest", trained_harness.model, "--gate")
    completed = run_command(env, *command, "policy=always", "--json")
    assert completed.returncode == 0, completed.stderr
    result = json.loads(completed.stdout)
    assert result["changes"] == {"policy": ["guarded", "always"]}
    assert result["backtested"]["windows"] == LAST + 1
    completed = run_command(env, *command, "policy=always")
    assert "loss as served" in completed.stdout
    assert "policy guarded → always" in completed.stdout
    refused = run_command(env, *command, "min_efect=0")
    assert refused.returncode == 2
    assert "did you mean `min_effect`?" in refused.stderr


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["min_efect: 0"], "unknown key `gate.min_efect`; did you mean `min_effect`"),
        (["min_effect: much"], "`gate.min_effect` is 'much'"),
        (["slices: [price]"], "`gate.slices`: 'price' is not a category"),
        (["a: b: c"], "is not valid YAML"),
        (["[1]"], "is not a mapping"),
    ],
)
def test_a_wrong_key_or_value_is_named(
    texts: list[str], message: str, harness: ModelHarness
) -> None:
    with pytest.raises(SpecInvalid) as caught:
        with_gate_overrides(harness.load_spec(), texts)
    assert message in caught.value.message


def test_later_overrides_win_and_other_keys_keep_the_value_of_defs_yaml(
    harness: ModelHarness,
) -> None:
    spec = with_gate_overrides(harness.load_spec(), ["min_effect: 0\npool_size: 9", "pool_size: 3"])
    assert (spec.gate.min_effect, spec.gate.pool_size) == (0, 3)
    assert spec.gate.min_rows == SPEC["gate"]["min_rows"]
    assert spec.model_copy(update={"gate": harness.load_spec().gate}) == harness.load_spec()
