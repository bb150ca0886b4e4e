"""`MaterializeAssetsOperator`: one Dagster run, launched once and monitored to its end."""

import time
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NoReturn

from airflow.sdk import BaseOperator

from tidemill_airflow import graphql
from tidemill_airflow.hooks.dagster import DagsterHook
from tidemill_airflow.hooks.transport import Retry
from tidemill_airflow.links.dagster import RUN_URL_KEY, DagsterRunLink
from tidemill_airflow.operators.launcher import (
    Limits,
    Outcome,
    RetryAt,
    RunLauncher,
    Running,
    RunRequest,
    Succeeded,
)
from tidemill_airflow.runs import TaskIdentity, Timing
from tidemill_airflow.schedule import (
    parse_asset_keys,
    require_partition_timetable,
    validate_partition_key,
)
from tidemill_airflow.triggers.dagster import DagsterRunTrigger, PauseTrigger

if TYPE_CHECKING:
    from airflow.sdk import Context


class MaterializeAssetsOperator(BaseOperator):
    """Materializes assets in one Dagster run, and succeeds if the run does.

    :param assets: the assets' keys, such as `flights/deployed_model`.
    :param partition: one partition's key.
    :param partition_range: the first and last key of a range, in one run; the assets need
        `BackfillPolicy.single_run()`.
    :param run_config: Dagster's run config.
    :param tags: tags of the Dagster run.
    :param timeout: the duration of a try, waiting included; then the run is terminated.
        `execution_timeout` is enforced as well, also while deferred.
    :param retry_on_errors: errors (the metadata `error` of a failure) of a run that is not possible
        yet; after them another run is launched every `retry_interval` seconds, until the timeout.
    :param deferrable: free the worker after `worker_poll` seconds.

    A try resumes the run of an earlier try, no matter how that one ended. After a failed run it
    launches another one; after a success, only if the task was cleared. Returns the run's id.
    Raises `InvalidInput`, `RunFailed`, `RunTimeout`, `DagsterRejected`.
    """

    template_fields: Sequence[str] = (
        "dagster_conn_id",
        "assets",
        "partition",
        "partition_range",
        "run_config",
        "tags",
    )
    template_fields_renderers = {"run_config": "json", "tags": "json"}  # noqa: RUF012 - Airflow's
    operator_extra_links = (DagsterRunLink(),)
    ui_color = "#dedcff"

    def __init__(
        self,
        *,
        assets: Sequence[str] | str,
        partition: str | None = None,
        partition_range: Sequence[str] | None = None,
        run_config: Mapping[str, Any] | None = None,
        tags: Mapping[str, str] | None = None,
        dagster_conn_id: str = DagsterHook.default_conn_name,
        timeout: float | timedelta = timedelta(days=7),
        retry_on_errors: Sequence[str] = ("WindowOpen",),
        retry_interval: float = 30.0,
        deferrable: bool = True,
        worker_poll: float = 10.0,
        poll_interval: float = 2.0,
        timing: Timing = Timing(),  # noqa: B008 - frozen
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.assets = assets
        self.partition = partition
        self.partition_range = partition_range
        self.run_config = run_config or {}
        self.tags = tags or {}
        self.dagster_conn_id = dagster_conn_id
        self.timeout = timeout.total_seconds() if isinstance(timeout, timedelta) else timeout
        self.retry_on_errors = tuple(retry_on_errors)
        self.retry_interval = retry_interval
        self.deferrable = deferrable
        self.worker_poll = worker_poll
        self.poll_interval = poll_interval
        self.timing = timing
        self.has_partition_template = "{{" in f"{partition}{partition_range}"
        self.dagster_run_id: str | None = None
        self.killed = False
        if self.has_partition_template and self.has_dag():
            require_partition_timetable(self.dag, self.task_id)

    def execute(self, context: "Context") -> str:
        """Launch the run, or find the one launched before, and monitor it."""
        if self.has_partition_template:
            require_partition_timetable(self.dag, self.task_id)
        launcher = self._make_launcher(context, time.time() + self._timeout_seconds())
        return self._monitor(context, launcher, launcher.launch_or_resume())

    def execute_complete(self, context: "Context", event: dict[str, Any]) -> str:
        """Continue after a deferral: with the awaited run, or with the next attempt."""
        launcher = self._make_launcher(context, event["deadline"])
        if event["status"] == "paused":
            return self._monitor(context, launcher, launcher.launch_next())
        self.dagster_run_id = event["run_id"]
        return self._monitor(context, launcher, launcher.poll(event["run_id"]))

    def on_kill(self) -> None:
        """Terminate the Dagster run, including one whose launch is still in progress."""
        self.killed = True
        if self.dagster_run_id is not None:
            DagsterHook(self.dagster_conn_id, timeout=5).try_to_terminate(self.dagster_run_id)

    def _make_launcher(self, context: "Context", deadline: float) -> RunLauncher:
        partitions = [self.partition] if self.partition is not None else []
        partitions = partitions if self.partition_range is None else list(self.partition_range)
        request = RunRequest(
            parse_asset_keys(self.assets),
            [validate_partition_key(s) for s in partitions],
            self.run_config,
            self.tags,
        )
        limits = Limits(
            deadline, self._timeout_seconds(), self.retry_on_errors, self.retry_interval
        )
        retry = Retry(deadline, 2 * self.timing.worker_poll_interval)
        hook = DagsterHook(self.dagster_conn_id, retry=retry)
        state_store: Any = context["task_state_store"]
        return RunLauncher(hook, state_store, request, _task_identity(context), limits, self.timing)

    def _timeout_seconds(self) -> float:
        limit = self.execution_timeout
        return min(self.timeout, limit.total_seconds()) if limit else self.timeout

    def _monitor(self, context: "Context", launcher: RunLauncher, outcome: Outcome) -> str:
        """Monitor the run, and those launched after it, to the end."""
        defer_at = time.time() + self.worker_poll
        while True:
            match outcome:
                case Succeeded(run):
                    self._show_run(context, launcher.hook, run.id)
                    self._annotate_outlet_events(context, launcher.hook, run.id)
                    launcher.mark_succeeded()
                    return run.id
                case RetryAt(retry_at, cause):
                    self.log.info("Retrying in %g s: %s", self.retry_interval, cause)
                    self._pause(retry_at, launcher.limits.deadline)
                    outcome = launcher.launch_next()
                case Running(run):
                    self._show_run(context, launcher.hook, run.id)
                    if self.deferrable and time.time() >= defer_at:
                        self._defer_until_finished(run.id, launcher.limits.deadline)
                    time.sleep(self.timing.worker_poll_interval)
                    outcome = launcher.poll(run.id)

    def _show_run(self, context: "Context", hook: DagsterHook, run_id: str) -> None:
        """Show a run that is new to this process in the log and as the task's link."""
        if run_id == self.dagster_run_id:
            return
        self.dagster_run_id = run_id
        url = hook.get_conn().run_url(run_id)
        self.log.info("Dagster run %s: %s", run_id, url)
        if self.killed:
            hook.try_to_terminate(run_id)
        context["ti"].xcom_push(key=RUN_URL_KEY, value=url)

    def _pause(self, until: float, deadline: float) -> None:
        if self.deferrable:
            trigger = PauseTrigger(until, deadline, self.timing.min_trigger)
            self.defer(trigger=trigger, method_name="execute_complete")
        time.sleep(max(0.0, until - time.time()))

    def _defer_until_finished(self, run_id: str, deadline: float) -> NoReturn:
        trigger = DagsterRunTrigger(
            self.dagster_conn_id,
            run_id,
            deadline,
            self.poll_interval,
            self.timing.stuck_after,
            self.timing.min_trigger,
        )
        self.defer(trigger=trigger, method_name="execute_complete")

    def _annotate_outlet_events(self, context: "Context", hook: DagsterHook, run_id: str) -> None:
        """Add the run's materializations to the asset events of the outlets."""
        if not self.outlets:
            return
        materializations: Any = graphql.materializations(hook.run_events(run_id))
        for outlet in self.outlets:
            uri = str(getattr(outlet, "uri", ""))
            key = uri.removeprefix(f"dagster://{self.dagster_conn_id}/")
            if key in materializations:
                extra = context["outlet_events"][outlet].extra
                extra["dagster_run_id"] = run_id
                extra["materializations"] = materializations[key][-20:]


def _task_identity(context: "Context") -> TaskIdentity:
    """The task instance. A clear changes the number of remaining tries, a retry does not."""
    ti: Any = context["ti"]
    index = -1 if ti.map_index is None else ti.map_index
    clear_marker = f"{ti.max_tries}/{ti.task.retries}"
    return TaskIdentity(ti.dag_id, ti.run_id, ti.task_id, index, ti.try_number, clear_marker)
