"""The link from a task to its Dagster run."""

from typing import TYPE_CHECKING

from airflow.sdk import BaseOperatorLink
from airflow.sdk.execution_time.xcom import XCom

if TYPE_CHECKING:
    from airflow.sdk import BaseOperator
    from airflow.sdk.types import TaskInstanceKey

RUN_URL_KEY = "dagster_run_url"
"""The XCom key of the run's URL; pushed as soon as the run exists, so before any deferral."""


class DagsterRunLink(BaseOperatorLink):
    """Opens the newest Dagster run of the task."""

    name = "Dagster run"

    @property
    def xcom_key(self) -> str:
        return RUN_URL_KEY

    def get_link(self, operator: "BaseOperator", *, ti_key: "TaskInstanceKey") -> str:
        """The URL of the run; empty before there is one."""
        return str(XCom.get_value(key=RUN_URL_KEY, ti_key=ti_key) or "")
