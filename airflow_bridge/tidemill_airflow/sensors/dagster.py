"""`PartitionFreshSensor`: waits until a partition of a Dagster asset is materialized."""

import time
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseSensorOperator

from tidemill_airflow.errors import RunTimeout
from tidemill_airflow.hooks.dagster import DagsterHook
from tidemill_airflow.runs import Timing
from tidemill_airflow.schedule import (
    require_partition_timetable,
    validate_asset_key,
    validate_partition_key,
)
from tidemill_airflow.triggers.dagster import DagsterPartitionTrigger

if TYPE_CHECKING:
    from airflow.sdk import Context


class PartitionFreshSensor(BaseSensorOperator):
    """Succeeds when the asset's partition was materialized, no matter by which run.

    :param asset: the asset's key, such as `flights/deployed_model`.
    :param partition: the partition's key; None for an asset without partitions.
    :param since: the earliest time (aware, or ISO 8601) of a materialization that counts.
    """

    template_fields: Sequence[str] = ("dagster_conn_id", "asset", "partition", "since")

    def __init__(
        self,
        *,
        asset: str,
        partition: str | None = None,
        since: datetime | str | None = None,
        dagster_conn_id: str = DagsterHook.default_conn_name,
        deferrable: bool = True,
        timing: Timing = Timing(),  # noqa: B008 - frozen
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.asset = asset
        self.partition = partition
        self.since = since
        self.dagster_conn_id = dagster_conn_id
        self.deferrable = deferrable
        self.timing = timing
        if "{{" in str(partition) and self.has_dag():
            require_partition_timetable(self.dag, self.task_id)

    def execute(self, context: "Context") -> None:
        if not self.deferrable:
            super().execute(context)
            return
        if self.poke(context):
            return
        key = None if self.partition is None else validate_partition_key(self.partition)
        deadline = time.time() + self.timeout
        self.defer(
            trigger=DagsterPartitionTrigger(
                self.dagster_conn_id,
                validate_asset_key(self.asset),
                key,
                self._since_timestamp(),
                deadline,
                min(self.poke_interval, 60.0),
                self.timing.min_trigger,
            ),
            method_name="execute_complete",
        )

    def execute_complete(self, context: "Context", event: dict[str, Any]) -> None:
        if event["materialized"] is None:
            raise RunTimeout(
                f"{self.asset} {self.partition or ''} was not materialized in {self.timeout:g} s.",
                "Check the asset in Dagster, or increase the task's `timeout`.",
            )

    def poke(self, context: "Context") -> bool:
        key = None if self.partition is None else validate_partition_key(self.partition)
        materialized_at = DagsterHook(self.dagster_conn_id).materialized_at(
            validate_asset_key(self.asset), key
        )
        return materialized_at is not None and materialized_at >= self._since_timestamp()

    def _since_timestamp(self) -> float:
        if not self.since:
            return 0.0
        since = (
            self.since if isinstance(self.since, datetime) else datetime.fromisoformat(self.since)
        )
        return since.timestamp()
