"""The three DAGs of a tidemill model: initial model, simulated events, incremental updates."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from airflow.sdk import DAG

from tidemill_airflow.operators.dagster import MaterializeAssetsOperator
from tidemill_airflow.schedule import (
    PARTITION_KEY,
    dagster_asset,
    partition_timetable,
    validate_asset_key,
)

WINDOW_ASSETS = ("kafka_batch", "candidate_model", "evaluation_report", "deployed_model")
"""Extract, update, evaluate, deploy: the assets of one window, one run."""

WAIT_TAG = "tidemill/wait_seconds"
"""The tag that sets how many seconds a run of tidemill waits for its window to close."""

RETRYABLE_ERRORS = ("WindowOpen", "PredecessorMissing", "TopicMissing", "AlreadyRunning")
"""Errors of a window that cannot be processed yet. The task retries until the window can be."""


@dataclass(frozen=True)
class ModelConfig:
    """A model and the calendar of its windows, as in its `defs.yaml` (`windows:`).

    With `live`, the simulated events of a window are produced while the window lasts, not after it.
    Each window continues from the previous one, so every window since `start` is processed. With
    `wait`, the Dagster run waits up to that long for the log to close the window, its imports
    already done, before it fails with `WindowOpen`.
    """

    name: str
    cron: str
    start: datetime
    end: datetime | None = None
    timezone: str = "UTC"
    live: bool = False
    wait: timedelta = timedelta(0)
    dagster_conn_id: str = "dagster_default"
    timeout: timedelta = timedelta(hours=6)
    retry_interval: float = 30.0
    retries: int = 2
    run_config: Mapping[str, Any] = field(default_factory=dict)


def model_dags(model: ModelConfig) -> list[DAG]:
    """`MODEL.initial_model`, `MODEL.simulated_events` and `MODEL.incremental_update`.

    `MODEL.simulated_events` is only for models with a packaged simulation. Leave it paused for
    other models.
    """
    return [_initial_model(model), _simulated_events(model), _incremental_update(model)]


def _initial_model(model: ModelConfig) -> DAG:
    """Once: train the model on historical data and deploy it as the first one."""
    with DAG(
        f"{validate_asset_key(model.name)}.initial_model",
        schedule="@once",
        start_date=model.start,
        doc_md=_initial_model.__doc__,
        tags=["tidemill", model.name],
        default_args=_default_args(model),
    ) as dag:
        _task(model, "initial_model", ("initial_model",), None)
    return dag


def _simulated_events(model: ModelConfig) -> DAG:
    """Per window: produce the simulated events of the window, each event once."""
    with DAG(
        f"{model.name}.simulated_events",
        schedule=partition_timetable(
            model.cron, timezone=model.timezone, offset=0 if model.live else -1
        ),
        doc_md=_simulated_events.__doc__,
        **_dag_kwargs(model, at_window_end=not model.live),
    ) as dag:
        _task(model, "simulated_events", ("simulated_events",), PARTITION_KEY)
    return dag


def _incremental_update(model: ModelConfig) -> DAG:
    """At the end of each window: extract, update, evaluate, deploy."""
    with DAG(
        f"{model.name}.incremental_update",
        schedule=partition_timetable(model.cron, timezone=model.timezone),
        doc_md=_incremental_update.__doc__,
        **_dag_kwargs(model, at_window_end=True),
    ) as dag:
        tags = {WAIT_TAG: f"{model.wait.total_seconds():g}"} if model.wait else {}
        _task(model, "update", WINDOW_ASSETS, PARTITION_KEY, outlet="deployed_model", tags=tags)
    return dag


def _default_args(model: ModelConfig) -> dict[str, Any]:
    return {"retries": model.retries, "retry_delay": timedelta(seconds=30)}


def _dag_kwargs(model: ModelConfig, *, at_window_end: bool) -> dict[str, Any]:
    """One run per window, at the window's end if `at_window_end`, otherwise at its start."""
    start, end, one_second = model.start, model.end, timedelta(seconds=1)
    return {
        "start_date": start + one_second if at_window_end else start,
        "end_date": end if at_window_end or end is None else end - one_second,
        "catchup": True,
        "max_active_runs": 1,
        "tags": ["tidemill", model.name],
        "default_args": _default_args(model),
    }


def _task(
    model: ModelConfig,
    task_id: str,
    assets: tuple[str, ...],
    partition: str | None,
    outlet: str = "",
    tags: Mapping[str, str] | None = None,
) -> MaterializeAssetsOperator:
    outlet_key = f"{model.name}/{outlet or assets[-1]}"
    return MaterializeAssetsOperator(
        task_id=task_id,
        assets=[f"{model.name}/{asset}" for asset in assets],
        partition=partition,
        run_config=model.run_config,
        tags=tags,
        dagster_conn_id=model.dagster_conn_id,
        timeout=model.timeout,
        retry_on_errors=RETRYABLE_ERRORS,
        retry_interval=model.retry_interval,
        outlets=[dagster_asset(outlet_key, model.dagster_conn_id)],
    )
