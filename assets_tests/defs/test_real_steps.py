"""The assets with the real steps, and with the log, the store and the ledger in memory."""

import json
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime

import dagster as dg
import pytest

from tidemill.adapters.bundle_validation.fork_server import ForkServerValidator
from tidemill.adapters.memory import MemoryLedger, MemoryLog
from tidemill.adapters.memory.store import MemoryStore
from tidemill.adapters.memory.tracker import MemoryTracker
from tidemill.core.errors import LineageChanged, SpecInvalid, TooManyRejects, WindowOpen
from tidemill.core.spec import ModelSpec
from tidemill.core.spec_sections import GateSpec
from tidemill.core.windows import to_ms
from tidemill.cycle.context import ModelContext
from tidemill.cycle.operations.adopt import adopt
from tidemill.cycle.repository import ModelRepository
from tidemill.cycle.steps.evaluate import evaluate
from tidemill.cycle.steps.extract import extract
from tidemill.cycle.steps.initial import initial
from tidemill.cycle.steps.update import update
from tidemill.defs.in_process_run import Materialized, backfill
from tidemill.defs.resources import TidemillResource
from tidemill.defs.window_wait import WAIT_TAG, seconds_to_wait, wait_until_closed
from tidemill.ports import BundleValidator
from tidemill.settings import Settings

DAY = 86_400_000
HOUR_SECONDS = 3600.0  # longer than the timeout of a test
START = to_ms(datetime.fromisoformat("2024-01-01T00:00+00:00"))
ASSETS = ("kafka_batch", "candidate_model", "evaluation_report", "deployed_model")


class MemoryTidemillResource(TidemillResource):
    """A resource with every port in memory except a real validator."""

    def __init__(
        self, log: MemoryLog, store: MemoryStore, ledger: MemoryLedger, validator: BundleValidator
    ) -> None:
        super().__init__(Settings(), self._open_memory, lambda settings: self.memory_tracker)
        self.log, self.store, self.ledger, self.validator = log, store, ledger, validator
        self.memory_tracker = MemoryTracker()

    @contextmanager
    def _open_memory(
        self, spec: ModelSpec, settings: Settings, *, exclusive: bool
    ) -> Iterator[ModelContext]:
        repository = ModelRepository(self.store, spec.name)
        yield ModelContext(
            spec, self.log, repository, self.ledger, self.validator, clock=lambda: START
        )


def produce(log: MemoryLog, first_day: int, last_day: int, rows: int = 400) -> None:
    """Days from START on, with `rows` each; a flood is likely if the height is large."""
    rng = random.Random(first_day)
    for day in range(first_day, last_day):
        for i in range(rows):
            height = rng.random()
            value = {"height": height, "flood": rng.random() < height}
            timestamp_ms = START + day * DAY + i * DAY // rows
            log.append("tides", i % 2, json.dumps(value).encode(), timestamp_ms)


@pytest.fixture
def spec() -> ModelSpec:
    step = {"num_iterations": 3, "learning_rate": 0.1, "min_data_in_leaf": 10}
    return ModelSpec.create(
        "tides",
        {
            "topic": "tides",
            "fields": {"height": "number"},
            "label": "flood",
            "windows": {"start": "2024-01-01"},
            "learner": {
                "continue": step,
                "retrain": step | {"num_iterations": 10},
                "retrain_every": 3,
            },
        },
    )


@pytest.fixture
def tidemill_resource() -> Iterator[MemoryTidemillResource]:
    log = MemoryLog()
    log.create_topic("tides", 2)
    produce(log, -3, 4)
    with ForkServerValidator() as validator:
        yield MemoryTidemillResource(log, MemoryStore(), MemoryLedger(), validator)


def asset_metadata(instance: dg.DagsterInstance, asset: str, window: str) -> dict[str, object]:
    key = dg.AssetKey(["tides", asset])
    filters = dg.AssetRecordsFilter(key, asset_partitions=[window])
    materialization = (
        instance.fetch_materializations(filters, limit=1).records[0].asset_materialization
    )
    return {name: value.value for name, value in materialization.metadata.items()}


def test_a_waiting_run_continues_when_the_log_has_closed_its_window(spec, tidemill_resource):
    first, second = spec.calendar.first, spec.calendar.after(spec.calendar.first)
    log = tidemill_resource.log = MemoryLog()
    log.create_topic("tides", 2)
    produce(log, -3, 1)
    with tidemill_resource.open(spec) as ctx:
        wait_until_closed(ctx, first, HOUR_SECONDS)  # not the next window: no initial model
        assert ctx.repository.plan(first.key) is None
        initial(ctx)
        threading.Timer(0.5, produce, (log, 1, 2)).start()
        wait_until_closed(ctx, first, HOUR_SECONDS)
        assert ctx.repository.plan(first.key) is not None
        wait_until_closed(ctx, second, HOUR_SECONDS)  # not the next: first is not completed
        assert ctx.repository.plan(second.key) is None


def test_the_wait_for_a_window_that_stays_open_has_a_timeout(spec, tidemill_resource):
    open_window = spec.calendar.window("2024-01-04")
    with tidemill_resource.open(spec) as ctx:
        initial(ctx)
        run_steps(ctx, ("2024-01-01", "2024-01-02", "2024-01-03"))
        wait_until_closed(ctx, open_window, 0.1)
        assert ctx.repository.plan(open_window.key) is None


@pytest.mark.parametrize("value", ["soon", "-1", "nan", "1e9"])
def test_a_wait_that_is_not_a_number_of_seconds_is_refused(value: str) -> None:
    with pytest.raises(SpecInvalid, match=WAIT_TAG):
        seconds_to_wait(dg.DagsterRun(job_name="j", tags={WAIT_TAG: value}))


def run_steps(ctx: ModelContext, keys: tuple[str, ...]) -> None:
    for key in keys:
        window = ctx.spec.calendar.window(key)
        for step in (extract, update, evaluate):
            step(ctx, window)


def test_a_stream_becomes_models_reports_and_deployments(instance, spec, tidemill_resource):
    reported: list[Materialized] = []
    outcome = backfill(
        instance,
        spec,
        "2024-01-01",
        "2024-01-03",
        progress=reported.append,
        tidemill=tidemill_resource,
    )
    assert outcome.error is None
    batch = next(m for m in reported if (m.asset, m.window) == ("kafka_batch", "2024-01-02"))
    assert [(o["partition"], o["records"]) for o in batch.metadata["offsets"]] == [
        (0, 200),
        (1, 200),
    ]
    assert asset_metadata(instance, "kafka_batch", "2024-01-02")["rows"] == 400
    kinds = [
        asset_metadata(instance, "candidate_model", f"2024-01-0{d}")["kind"] for d in (1, 2, 3)
    ]
    assert kinds == ["continue", "continue", "retrain"]
    report = asset_metadata(instance, "evaluation_report", "2024-01-02")
    assert report["verdict"] in ("promote", "keep", "rollback")
    assert "2024-01-02" in report["report"]
    deployed = asset_metadata(instance, "deployed_model", "2024-01-03")
    assert deployed["seq"] == len(tidemill_resource.ledger.read()) - 1


def test_running_a_range_again_changes_nothing(instance, spec, tidemill_resource):
    backfill(instance, spec, "2024-01-01", "2024-01-02", tidemill=tidemill_resource)
    names, entries = set(tidemill_resource.store.names("")), tidemill_resource.ledger.read()
    assert backfill(instance, spec, "2024-01-01", "2024-01-02", tidemill=tidemill_resource).success
    assert set(tidemill_resource.store.names("")) == names
    assert tidemill_resource.ledger.read() == entries


def test_an_open_window_fails_the_run_and_succeeds_once_the_log_has_closed_it(
    instance, spec, tidemill_resource
):
    outcome = backfill(instance, spec, "2024-01-01", "2024-01-04", tidemill=tidemill_resource)
    assert isinstance(outcome.error, WindowOpen)
    assert asset_metadata(instance, "deployed_model", "2024-01-03")["status"] in (
        "deferred",
        "unchanged",
    )
    produce(tidemill_resource.log, 4, 5)
    assert backfill(instance, spec, "2024-01-04", "2024-01-04", tidemill=tidemill_resource).success


def test_a_window_of_rejects_is_not_learned(instance, spec, tidemill_resource):
    for i in range(200):
        tidemill_resource.log.append("tides", i % 2, b"not JSON", START + 4 * DAY + i)
    produce(tidemill_resource.log, 4, 6)
    outcome = backfill(instance, spec, "2024-01-01", "2024-01-05", tidemill=tidemill_resource)
    assert isinstance(outcome.error, TooManyRejects)


def test_asset_by_asset_gives_the_same_result_as_window_by_window(
    instance, spec, tidemill_resource
):
    """A backfill from the UI may arrive asset by asset."""
    for asset in ASSETS:
        assert backfill(
            instance,
            spec,
            "2024-01-01",
            "2024-01-03",
            selection=[asset],
            tidemill=tidemill_resource,
        ).success
    by_columns = {
        n: tidemill_resource.store.get(n)
        for n in tidemill_resource.store.names("tides/")
        if "batches" in n
    }
    by_rows = MemoryTidemillResource(
        tidemill_resource.log, MemoryStore(), MemoryLedger(), tidemill_resource.validator
    )
    backfill(instance, spec, "2024-01-01", "2024-01-03", tidemill=by_rows)
    assert by_columns == {n: by_rows.store.get(n) for n in by_columns}
    reports = [f"tides/reports/2024-01-0{d}.json" for d in (1, 2, 3)]
    assert [tidemill_resource.store.get(n) for n in reports] == [
        by_rows.store.get(n) for n in reports
    ]


def test_another_learning_spec_is_refused(instance, spec, tidemill_resource):
    backfill(instance, spec, "2024-01-01", "2024-01-01", tidemill=tidemill_resource)
    changed = spec.model_copy(update={"learner": spec.learner.model_copy(update={"seed": 1})})
    outcome = backfill(instance, changed, "2024-01-02", "2024-01-02", tidemill=tidemill_resource)
    assert isinstance(outcome.error, LineageChanged)
    assert "learner.seed" in str(outcome.error)


def test_an_adopted_spec_starts_a_lineage_that_assets_and_tracker_name(
    instance, spec, tidemill_resource
):
    backfill(instance, spec, "2024-01-01", "2024-01-01", tidemill=tidemill_resource)
    changed = spec.model_copy(update={"learner": spec.learner.model_copy(update={"seed": 1})})
    with tidemill_resource.open(changed) as ctx:
        lineage = adopt(ctx, spec.calendar.window("2024-01-02"), "ada", "another seed").lineage
    assert backfill(
        instance, changed, "2024-01-01", "2024-01-03", tidemill=tidemill_resource
    ).success
    lineages = [
        asset_metadata(instance, "candidate_model", f"2024-01-0{d}")["lineage"] for d in (1, 2, 3)
    ]
    assert lineages[0] != lineages[1] == lineages[2] == lineage
    runs = [tidemill_resource.memory_tracker.runs["tides", f"2024-01-0{d}"] for d in (1, 2)]
    assert [run.params["learner.seed"] for run in runs] == ["0", "1"]
    assert [run.tags["lineage"] for run in runs] == lineages[:2]
    assert [run.tags["epoch"] for run in runs] == ["0", "0"]


def check_evaluations(instance, check):
    """The evaluations of a check of the deployed model, newest first."""
    key = dg.AssetCheckKey(dg.AssetKey(["tides", "deployed_model"]), check)
    history = instance.event_log_storage.get_asset_check_execution_history(key, limit=10)
    results = [record.event.dagster_event.event_specific_data for record in history]
    return [result for result in results if isinstance(result, dg.AssetCheckEvaluation)]


@dataclass
class RecordingTracker(MemoryTracker):
    """Records to which model the alias is set, and the ledger's head at that time."""

    ledger: MemoryLedger = field(default_factory=MemoryLedger)
    alias_moves: list[tuple[str, str]] = field(default_factory=list)

    def set_champion(self, model: str, digest: str) -> None:
        head = json.loads(self.ledger.read()[-1].value)["digest"]
        self.alias_moves.append((digest, head))
        super().set_champion(model, digest)


def test_a_report_links_to_its_run_and_the_alias_follows_the_ledger(
    instance, spec, tidemill_resource
):
    tidemill_resource.memory_tracker = RecordingTracker(ledger=tidemill_resource.ledger)
    always = spec.model_copy(update={"gate": GateSpec(policy="always")})
    assert backfill(
        instance, always, "2024-01-01", "2024-01-02", tidemill=tidemill_resource
    ).success
    assert (
        asset_metadata(instance, "evaluation_report", "2024-01-02")["mlflow"]
        == "memory:tides-2024-01-02"
    )
    champion = json.loads(tidemill_resource.ledger.read()[-1].value)["digest"]
    assert tidemill_resource.memory_tracker.champion("tides") == champion
    assert tidemill_resource.memory_tracker.alias_moves[-1] == (champion, champion)
    assert all(digest == head for digest, head in tidemill_resource.memory_tracker.alias_moves)
    (result,) = check_evaluations(instance, "mlflow_record")
    assert result.passed


def test_an_unavailable_tracker_only_fails_a_check(instance, spec, tidemill_resource):
    tidemill_resource.memory_tracker.unavailable = True
    assert backfill(instance, spec, "2024-01-01", "2024-01-02", tidemill=tidemill_resource).success
    assert "mlflow" not in asset_metadata(instance, "evaluation_report", "2024-01-02")
    (result,) = check_evaluations(instance, "mlflow_record")
    assert not result.passed
    assert result.metadata["remedy"].value == "tidemill verify tides --repair"
    tidemill_resource.memory_tracker.unavailable = False
    assert backfill(instance, spec, "2024-01-03", "2024-01-03", tidemill=tidemill_resource).success
    windows = [window for _, window in tidemill_resource.memory_tracker.runs]
    assert windows == ["2024-01-01", "2024-01-02", "2024-01-03"]
    assert check_evaluations(instance, "mlflow_record")[0].passed


def test_the_topic_is_observed_once_per_run(instance, spec, tidemill_resource):
    assert backfill(instance, spec, "2024-01-01", "2024-01-02", tidemill=tidemill_resource).success
    records = instance.fetch_observations(dg.AssetKey(["kafka", "tides"]), limit=10).records
    (metadata,) = [record.asset_observation.metadata for record in records]
    assert metadata["planned_through"].value == "2024-01-02"
    assert metadata["unplanned"].value == 800


def test_a_run_prunes_once_and_a_rerun_of_old_windows_changes_nothing(
    instance, spec, tidemill_resource
):
    produce(tidemill_resource.log, 4, 8)
    bounded = spec.model_copy(update={"retention_windows": 2})
    assert backfill(
        instance, bounded, "2024-01-01", "2024-01-06", tidemill=tidemill_resource
    ).success
    marker = ModelRepository(tidemill_resource.store, "tides").prune_marker()
    assert marker is not None
    assert marker.window == "2024-01-03"  # windows 5 and 6 start from this retraining
    names = set(tidemill_resource.store.names(""))
    assert not any("2024-01-02/rows" in name for name in names)
    assert any("2024-01-04/rows" in name for name in names)
    assert backfill(
        instance, bounded, "2024-01-01", "2024-01-04", tidemill=tidemill_resource
    ).success
    assert set(tidemill_resource.store.names("")) == names
