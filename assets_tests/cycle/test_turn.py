"""Windows pass through the four steps, with a real Kafka and a real folder."""

import json

import pytest

from support.models.harness import ModelHarness, events, run_window, run_windows
from tidemill.adapters.memory.store import MemoryStore
from tidemill.cli.backfill import run_backfill
from tidemill.core.errors import LineageChanged, PredecessorMissing, WindowOpen
from tidemill.cycle.audit.recompute import recompute
from tidemill.cycle.audit.verify import verify
from tidemill.cycle.operations.manual_actions import close
from tidemill.cycle.repository import ModelRepository
from tidemill.cycle.steps.extract import extract
from tidemill.cycle.steps.initial import initial, train
from tidemill.cycle.steps.update import update
from tidemill.services.dagster_home import ensure_dagster_home


def test_six_windows_are_processed_and_verified(harness: ModelHarness) -> None:
    harness.produce_windows(-3, 6)
    with harness.open_model() as ctx:
        run_windows(ctx, 0, 5)
        verification = verify(ctx)
        assert verification.findings == []
        assert (verification.plans, verification.reports) == (7, 6)
        recompute(ctx, ModelRepository(MemoryStore(), ctx.model), verification, lambda _: None)
        assert verification.findings == []
        assert verification.recomputed == 6


def test_a_repeat_writes_nothing(harness: ModelHarness) -> None:
    harness.produce_windows(-3, 3)
    with harness.open_model() as ctx:
        run_windows(ctx, 0, 2)
        before = {
            path: path.stat().st_mtime_ns for path in harness.home.rglob("*") if path.is_file()
        }
        run_windows(ctx, 0, 2)
        after = {
            path: path.stat().st_mtime_ns for path in harness.home.rglob("*") if path.is_file()
        }
        assert before == after
        assert ctx.chain().invalid_records == ()


def test_a_window_stays_open_until_the_log_has_passed_it(harness: ModelHarness) -> None:
    harness.produce_windows(-3, 0)
    with harness.open_model() as ctx:
        initial(ctx)
        with pytest.raises(WindowOpen, match=r"is still open.*tidemill close"):
            run_window(ctx, 0)
        harness.produce_windows(1, 1)
        run_window(ctx, 0)


def test_a_finished_stream_is_closed_by_an_operator(harness: ModelHarness) -> None:
    harness.produce_windows(-3, 1)
    with harness.open_model() as ctx:
        initial(ctx)
        run_window(ctx, 0)
        plan = close(ctx, harness.window(1), "ada")
        assert plan.closed_by == "ada"
        assert {r.end_reason for r in plan.ranges} == {"closed"}
        run_window(ctx, 1)


def test_windows_are_processed_in_order(harness: ModelHarness) -> None:
    harness.produce_windows(-3, 3)
    with harness.open_model() as ctx:
        initial(ctx)
        extract(ctx, harness.window(2))
        with pytest.raises(PredecessorMissing, match="has no candidate"):
            run_window(ctx, 2)


def test_the_initial_model_may_come_from_a_file_of_history(harness: ModelHarness) -> None:
    history = [{"ts": timestamp, **json.loads(value)} for timestamp, value in events(-2, 400)]
    harness.define(initial={"file": "history.jsonl", "time_column": "ts"})
    file = harness.home / "models" / harness.model / "history.jsonl"
    file.write_text("\n".join(map(json.dumps, history)))
    harness.produce_windows(-1, 2)
    with harness.open_model() as ctx:
        run_windows(ctx, 0, 1)
        first = initial(ctx)
        assert first.rows == 400
        assert verify(ctx).findings == []
        verification = verify(ctx)
        recompute(ctx, ModelRepository(MemoryStore(), ctx.model), verification, lambda _: None)
        assert (verification.findings, verification.recomputed) == ([], 2)
        file.write_text(json.dumps(history[0]))
        with pytest.raises(LineageChanged, match=r"`initial\.file` differ"):
            initial(ctx)
    assert {path.name for path in harness.home.rglob("plans/*")} == {
        "initial.json",
        f"{harness.window(0).key}.json",
        f"{harness.window(1).key}.json",
    }


def test_a_changed_learning_spec_is_refused_and_other_changes_are_accepted(
    harness: ModelHarness,
) -> None:
    harness.produce_windows(-3, 3)
    with harness.open_model() as ctx:
        run_windows(ctx, 0, 1)
        assert initial(ctx) == initial(ctx)
    harness.define(objective="binary", warn_below_rows=5, gate={"min_rows": 60})
    with harness.open_model() as ctx:
        run_window(ctx, 2)
    harness.define(fields={"country": "category", "price": "number"})
    with (
        harness.open_model() as ctx,
        pytest.raises(LineageChanged, match=r"`fields\.visits` differ"),
    ):
        update(ctx, harness.window(2))


# Dagster itself calls functions that pydantic has deprecated.
@pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecatedSince20")
def test_an_initial_model_that_was_not_deployed_is_deployed_by_a_backfill(
    harness: ModelHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    harness.produce_windows(-3, 1)
    with harness.open_model() as ctx:
        train(ctx)  # as if a crash had prevented its ledger entry
        assert ctx.chain().head is None
    monkeypatch.setenv("DAGSTER_HOME", str(ensure_dagster_home(harness.settings)))
    first = harness.window(0).key
    run_backfill(harness.settings, harness.load_spec(), first, first, quiet=True)
    with harness.open_model() as ctx:
        assert ctx.chain().entries[0].entry.reason == "the initial model"
        assert ctx.repository.report(first) is not None
