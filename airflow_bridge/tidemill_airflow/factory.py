"""The three DAGs of a model that tidemill keeps up to date: its start, its stream, its turns."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from airflow.sdk import DAG

from tidemill_airflow.operators.dagster import MaterializeAssetsOperator
from tidemill_airflow.schedule import PARTITION_KEY, asset_key, dagster_asset, windows

CYCLE = ("kafka_batch", "candidate_model", "evaluation_report", "deployed_model")
"""Extract, update, evaluate, deploy: the assets of one window, one run."""

WAIT_TAG = "tidemill/wait"
"""The tag by which a run of tidemill is told for how many seconds it waits for its window."""

NOT_YET = ("WindowOpen", "PredecessorMissing", "TopicMissing", "AlreadyRunning")
"""What tidemill says of a window whose time has not come; it is asked for again until it has."""


@dataclass(frozen=True)
class Model:
    """A model and the calendar of its windows, as its `defs.yaml` has them (`windows:`).

    With `live` a stretch of its simulated stream is told while it lasts, not after it. Each window
    goes on from the one before, so all since `start` are caught up with. With `wait` the Dagster
    run itself waits that long for the log to close the window, its imports done, before it says
    that the window is open.
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
    follow_interval: float = 30.0
    retries: int = 2
    run_config: Mapping[str, Any] = field(default_factory=dict)


def model_dags(model: Model) -> list[DAG]:
    """`MODEL.initial_model`, `MODEL.stream` and `MODEL.incremental_update`.

    The stream is for models over a stream that comes with tidemill; leave it paused for others.
    """
    return [_initial_model(model), _stream(model), _incremental_update(model)]


def _initial_model(model: Model) -> DAG:
    """Once: the model trained from history, which is the first in service."""
    with DAG(
        f"{asset_key(model.name)}.initial_model",
        schedule="@once",
        start_date=model.start,
        doc_md=_initial_model.__doc__,
        tags=["tidemill", model.name],
        default_args=_retried(model),
    ) as dag:
        _task(model, "initial_model", ("initial_model",), None)
    return dag


def _stream(model: Model) -> DAG:
    """Window by window: the next stretch of simulated events, each event once."""
    with DAG(
        f"{model.name}.stream",
        schedule=windows(model.cron, timezone=model.timezone, offset=0 if model.live else -1),
        doc_md=_stream.__doc__,
        **_timed(model, at_end=not model.live),
    ) as dag:
        _task(model, "stretch", ("stretch",), PARTITION_KEY)
    return dag


def _incremental_update(model: Model) -> DAG:
    """At the end of each window: extract, update, evaluate, deploy."""
    with DAG(
        f"{model.name}.incremental_update",
        schedule=windows(model.cron, timezone=model.timezone),
        doc_md=_incremental_update.__doc__,
        **_timed(model, at_end=True),
    ) as dag:
        tags = {WAIT_TAG: f"{model.wait.total_seconds():g}"} if model.wait else {}
        _task(model, "update", CYCLE, PARTITION_KEY, outlet="deployed_model", tags=tags)
    return dag


def _retried(model: Model) -> dict[str, Any]:
    return {"retries": model.retries, "retry_delay": timedelta(seconds=30)}


def _timed(model: Model, *, at_end: bool) -> dict[str, Any]:
    """From the first window to the last: their ends, or else their beginnings, are the runs'."""
    start, end, moment = model.start, model.end, timedelta(seconds=1)
    return {
        "start_date": start + moment if at_end else start,
        "end_date": end if at_end or end is None else end - moment,
        "catchup": True,
        "max_active_runs": 1,
        "tags": ["tidemill", model.name],
        "default_args": _retried(model),
    }


def _task(
    model: Model,
    task_id: str,
    assets: tuple[str, ...],
    partition: str | None,
    outlet: str = "",
    tags: Mapping[str, str] | None = None,
) -> MaterializeAssetsOperator:
    told = f"{model.name}/{outlet or assets[-1]}"
    return MaterializeAssetsOperator(
        task_id=task_id,
        assets=[f"{model.name}/{asset}" for asset in assets],
        partition=partition,
        run_config=model.run_config,
        tags=tags,
        dagster_conn_id=model.dagster_conn_id,
        timeout=model.timeout,
        follow=NOT_YET,
        follow_interval=model.follow_interval,
        outlets=[dagster_asset(told, model.dagster_conn_id)],
    )
