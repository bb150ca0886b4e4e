"""Runs in this process, for the command line: one Dagster run per range of windows."""

import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import dagster as dg
from sqlalchemy.exc import SQLAlchemyError

from tidemill.core.errors import InstanceUnavailable, TidemillError
from tidemill.core.spec import ModelSpec
from tidemill.defs.assets import DEPLOY_TAG, build_assets, pool_of
from tidemill.defs.dagster_compat import (
    ASSET_PARTITION_RANGE_END_TAG,
    ASSET_PARTITION_RANGE_START_TAG,
    pooled_connections,
)
from tidemill.defs.partitions import partitions_of, windows_between
from tidemill.defs.resources import TidemillResource
from tidemill.defs.windowed_assets import WINDOW_ASSETS

MODEL_TAG = "tidemill/model"
"""The tag of in-process runs: the model. While this process holds the model's lock, any other
unfinished run with this tag belongs to a process that died."""

# Dagster also writes each event to the console; the command line prints its own lines.
_QUIET_RUN_CONFIG = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


@dataclass(frozen=True)
class Materialized:
    """An asset that was materialized for a window (None for the initial model)."""

    asset: str
    window: str | None
    metadata: Mapping[str, Any]


Progress = Callable[[Materialized], None]


@dataclass(frozen=True)
class Outcome:
    """How a backfill ended. `error` is the named error that caused a failure, if there is one."""

    run_id: str
    success: bool
    error: Exception | None = None


def backfill(
    instance: dg.DagsterInstance,
    spec: ModelSpec,
    first: str,
    last: str,
    *,
    tidemill: TidemillResource,
    selection: Sequence[str] = WINDOW_ASSETS,
    deploy: Literal["each", "last"] | None = None,
    progress: Progress | None = None,
) -> Outcome:
    """Materialize the selected assets of the windows `first` to `last`, both inclusive, in one run.

    The initial model is trained first, in a separate run, if it was not deployed yet. Completed
    windows are always kept; running again verifies them and continues. An interrupt ends the run
    (Dagster marks it as failed if it was inside a step) and is raised again. Raises `UnknownWindow`
    for an invalid key, `AlreadyRunning`, and what opening the model raises; errors of the steps are
    in the outcome.
    """
    windows_between(spec.calendar, partitions_of(spec.calendar), first, last)
    with tidemill.open(spec) as ctx, pooled_connections(instance):
        _fail_orphaned_runs(instance, spec.name)
        runner = _InProcessRunner(instance, spec, tidemill, progress)
        if ctx.repository.initial_model() is None or ctx.chain().head is None:
            outcome = runner.run(["initial_model"], {})
            if not outcome.success:
                return outcome
        tags = {ASSET_PARTITION_RANGE_START_TAG: first, ASSET_PARTITION_RANGE_END_TAG: last}
        return runner.run(selection, tags | ({DEPLOY_TAG: deploy} if deploy else {}))


@dataclass(frozen=True)
class _InProcessRunner:
    instance: dg.DagsterInstance
    spec: ModelSpec
    tidemill: TidemillResource
    progress: Progress | None

    def run(self, assets: Sequence[str], tags: Mapping[str, str]) -> Outcome:
        """Run these assets in one Dagster run in this process."""
        definitions = dg.Definitions(
            assets=build_assets(self.spec), resources={"tidemill": self.tidemill}
        )
        run_id = str(uuid.uuid4())
        if self.progress is not None:
            self.instance.add_event_listener(run_id, _listener(self.progress))
        try:
            with _ensure_run_finished(self.instance, run_id):
                definitions.resolve_implicit_global_asset_job_def().execute_in_process(
                    instance=self.instance,
                    asset_selection=[dg.AssetKey([self.spec.name, asset]) for asset in assets],
                    tags={MODEL_TAG: self.spec.name, **tags},
                    run_id=run_id,
                    run_config=_QUIET_RUN_CONFIG,
                )
        except (Exception, dg.DagsterExecutionInterruptedError) as error:
            # Dagster raises this for Ctrl-C, and Kafka's client may wrap it in another error.
            if any(isinstance(c, dg.DagsterExecutionInterruptedError) for c in _causes(error)):
                raise KeyboardInterrupt from None
            return Outcome(run_id, False, _translate_error(error))
        return Outcome(run_id, True)


def _listener(progress: Progress) -> Callable[[dg.EventLogEntry], None]:
    def listen(entry: dg.EventLogEntry) -> None:
        materialization = entry.asset_materialization
        if materialization is not None:
            metadata = {
                name: _to_builtins(value) for name, value in materialization.metadata.items()
            }
            progress(
                Materialized(
                    materialization.asset_key.path[-1], materialization.partition, metadata
                )
            )

    return listen


def _to_builtins(value: dg.MetadataValue[Any]) -> Any:
    """A table as a list of dicts; any other metadata value as its Python value."""
    if isinstance(value, dg.TableMetadataValue):
        return [dict(record.data) for record in value.records]
    return value.value


@contextmanager
def _ensure_run_finished(instance: dg.DagsterInstance, run_id: str) -> Iterator[None]:
    """Leave no run as STARTED or in its pool, even if it is interrupted."""
    try:
        yield
    finally:
        run = instance.get_run_by_id(run_id)
        if run is not None and not run.is_finished:
            instance.report_run_canceled(run, message="Interrupted. Completed windows are kept.")
        instance.event_log_storage.free_concurrency_slots_for_run(run_id)


def _fail_orphaned_runs(instance: dg.DagsterInstance, model: str) -> None:
    """Mark runs of this model whose process died as failed, and free their pool slots.

    The model's lock must be held.
    """
    active_statuses = [dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.STARTING]
    for run in instance.get_runs(dg.RunsFilter(tags={MODEL_TAG: model}, statuses=active_statuses)):
        instance.report_run_failed(run, message="The process of this run died. Run it again.")
    _free_pool(instance, pool_of(model))


def _free_pool(instance: dg.DagsterInstance, pool: str) -> None:
    """Free the slots in the model's pool that dead runs hold, which would block it permanently.

    Since this process holds the model's lock, a live run that holds a slot is about to end with
    `AlreadyRunning`, so its slot may be freed too; a run that waits for a slot keeps its place.
    """
    storage = instance.event_log_storage
    pool_info = storage.get_concurrency_info(pool)
    slots, pending = pool_info.claimed_slots, pool_info.pending_steps
    for run_id in {*(slot.run_id for slot in slots), *(step.run_id for step in pending)}:
        run = instance.get_run_by_id(run_id)
        if run is None or run.is_finished:
            storage.free_concurrency_slots_for_run(run_id)
    for slot in slots:
        storage.free_concurrency_slot_for_step(slot.run_id, slot.step_key)


@contextmanager
def translate_instance_errors() -> Iterator[None]:
    """Raise `InstanceUnavailable` in place of errors of Dagster's database."""
    try:
        yield
    except Exception as error:
        translated = _translate_error(error)
        if translated is error:
            raise
        raise translated from error


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An error and its chain of causes."""
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__


def _translate_error(error: BaseException) -> Exception:
    """The named error that caused this one; the error itself if there is none."""
    for cause in _causes(error):
        if isinstance(cause, TidemillError):
            return cause
        if isinstance(cause, SQLAlchemyError):
            return InstanceUnavailable(
                "Dagster's database could not be read or written: "
                f"{type(cause).__name__}: {str(cause).splitlines()[0][:300]}.",
                "Check that it is running and has free space, then run the command again. "
                "Completed windows are kept.",
            )
    assert isinstance(error, Exception)
    return error
