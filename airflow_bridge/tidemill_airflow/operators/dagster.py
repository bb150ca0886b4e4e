"""`MaterializeAssetsOperator`: one Dagster run, asked for once, followed to its end."""

import time
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NoReturn

from airflow.sdk import BaseOperator

from tidemill_airflow import graphql
from tidemill_airflow.errors import BridgeError, RunFailed, RunTimeout
from tidemill_airflow.hooks.dagster import DagsterHook
from tidemill_airflow.links.dagster import RUN_URL, DagsterRunLink
from tidemill_airflow.operators.asking import GLANCE, Asking, Wanted
from tidemill_airflow.runs import Place, Run, RunStatus, followed, told
from tidemill_airflow.schedule import asset_names, partition_key, refuse_guessing
from tidemill_airflow.triggers.dagster import DagsterRunTrigger, PauseTrigger

if TYPE_CHECKING:
    from airflow.sdk import Context


class MaterializeAssetsOperator(BaseOperator):
    """Materializes assets in one Dagster run, and succeeds when that has.

    :param assets: the assets' keys, such as `flights/deployed_model`.
    :param partition: one partition's key.
    :param partition_range: the first and the last of several, which is one run too; the assets need
        `BackfillPolicy.single_run()`.
    :param run_config: Dagster's run config.
    :param tags: tags of the Dagster run.
    :param timeout: how long a try may last, with all that it waits for; then the run is ended.
        `execution_timeout` counts too, deferred or not.
    :param follow: errors (the metadata `error` of a failure) after which the same is asked again
        every `follow_interval` seconds, until the timeout: what is asked for cannot be yet.
    :param deferrable: leave the worker to others after `worker_poll` seconds.

    A try finds the run of an earlier one and goes on with it, whatever ended that one; after a
    failed run it asks for a new one, and after a success only when it is cleared. The run's id is
    what it returns. Raises `InputRefused`, `RunFailed`, `RunTimeout`, `DagsterRefused`.
    """

    template_fields: Sequence[str] = (
        "dagster_conn_id", "assets", "partition", "partition_range", "run_config", "tags",
    )  # fmt: skip
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
        follow: Sequence[str] = ("WindowOpen",),
        follow_interval: float = 30.0,
        deferrable: bool = True,
        worker_poll: float = 10.0,
        poll_interval: float = 2.0,
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
        self.follow = tuple(follow)
        self.follow_interval = follow_interval
        self.deferrable = deferrable
        self.worker_poll = worker_poll
        self.poll_interval = poll_interval
        self.templated = "{{" in f"{partition}{partition_range}"
        self.dagster_run_id: str | None = None
        self.killed = False
        if self.templated and self.has_dag():
            refuse_guessing(self.dag, self.task_id)

    def execute(self, context: "Context") -> str:
        """Ask for the run, or find the one that was asked for, and follow it."""
        if self.templated:
            refuse_guessing(self.dag, self.task_id)
        asking = self._asking(context, time.time() + self._seconds())
        return self._follow(context, asking, asking.begin())

    def execute_complete(self, context: "Context", event: dict[str, Any]) -> str:
        """Go on after a deferral: with the run that was waited for, or with the next ask."""
        asking = self._asking(context, event["deadline"])
        if event["status"] == "paused":
            return self._follow(context, asking, asking.next())
        self.dagster_run_id = event["run_id"]
        run = asking.answered(lambda: asking.hook.run(event["run_id"]))
        return self._follow(context, asking, run)

    def on_kill(self) -> None:
        """End the Dagster run, or the one that comes of a launch under way: nobody waits for it."""
        self.killed = True
        if self.dagster_run_id is not None:
            self._end(DagsterHook(self.dagster_conn_id, timeout=5), self.dagster_run_id)

    def _asking(self, context: "Context", deadline: float) -> Asking:
        spans = [self.partition] if self.partition is not None else []
        spans = spans if self.partition_range is None else list(self.partition_range)
        wanted = Wanted(
            asset_names(self.assets), [partition_key(s) for s in spans], self.run_config, self.tags
        )
        hook = DagsterHook(self.dagster_conn_id)

        def show(run: Run) -> None:
            self.dagster_run_id = run.id
            address = hook.get_conn().run(run.id)
            self.log.info("Dagster run %s: %s", run.id, address)
            if self.killed:
                self._end(hook, run.id)
            context["ti"].xcom_push(key=RUN_URL, value=address)

        store: Any = context["task_state_store"]
        return Asking(hook, store, wanted, _place(context), deadline, show)

    def _seconds(self) -> float:
        limit = self.execution_timeout
        return min(self.timeout, limit.total_seconds()) if limit else self.timeout

    def _follow(self, context: "Context", asking: Asking, run: Run) -> str:
        """See the run to its end, and those that are asked for after it."""
        leave = time.time() + self.worker_poll
        while True:
            now = time.time()
            if run.status is RunStatus.SUCCESS:
                self._tell(context, asking, run)
                asking.succeeded()
                return run.id
            if run.status.is_terminal:
                self._pause(asking, run)
                run = asking.next()
            elif run.is_stuck(now):
                self.log.warning("Nobody starts run %s; it is asked for anew.", run.id)
                self._end(asking.hook, run.id, at_once=True)
                run = asking.next()
            elif now >= asking.deadline:
                self._end(asking.hook, run.id)
                raise _late(f"Run {run.id} has not ended after {self._seconds():g} s.", "was ended")
            elif self.deferrable and now >= leave:
                conn, seconds = self.dagster_conn_id, self.poll_interval
                trigger = DagsterRunTrigger(conn, run.id, asking.deadline, seconds)
                self._defer(trigger)
            else:
                time.sleep(GLANCE)
                run = asking.look(run)

    def _pause(self, asking: Asking, run: Run) -> None:
        """Wait for the moment of the next ask. Raises `RunFailed` where none is to follow."""
        faults = asking.answered(lambda: asking.hook.faults(run.id))
        cause = followed(faults, self.follow)
        if run.status is not RunStatus.FAILURE or cause is None:
            address = asking.hook.get_conn().run(run.id)
            raise RunFailed(f"Dagster run {run.id} ended as {run.status}: {address}", told(faults))
        moment = time.time() + self.follow_interval
        if moment >= asking.deadline:
            raise _late(f"After {self._seconds():g} s this still holds: {cause.text}", "failed")
        self.log.info("It is asked again in %g s: %s", self.follow_interval, cause.text)
        if self.deferrable:
            self._defer(PauseTrigger(moment, asking.deadline))
        time.sleep(self.follow_interval)

    def _defer(self, trigger: DagsterRunTrigger | PauseTrigger) -> NoReturn:
        self.defer(trigger=trigger, method_name="execute_complete")

    def _end(self, hook: DagsterHook, run_id: str, *, at_once: bool = False) -> None:
        try:
            hook.terminate(run_id, at_once=at_once)
        except BridgeError as error:
            self.log.error("Run %s could not be told to end: %s", run_id, error)

    def _tell(self, context: "Context", asking: Asking, run: Run) -> None:
        """Let the events of our outlets say what Dagster made of the asset."""
        if not self.outlets:
            return
        made: Any = graphql.materialized(asking.answered(lambda: asking.hook.events(run.id)))
        for outlet in self.outlets:
            uri = str(getattr(outlet, "uri", ""))
            key = uri.removeprefix(f"dagster://{self.dagster_conn_id}/")
            if key in made:
                extra = context["outlet_events"][outlet].extra
                extra["dagster_run_id"] = run.id
                extra["materializations"] = made[key][-20:]


def _late(what: str, how: str) -> RunTimeout:
    return RunTimeout(what, f"The Dagster run {how}; give it more time by the task's `timeout`.")


def _place(context: "Context") -> Place:
    """Where this try runs. What a clear changes, and no retry does, is the number of tries left."""
    ti: Any = context["ti"]
    index = -1 if ti.map_index is None else ti.map_index
    lives = f"{ti.max_tries}/{ti.task.retries}"
    return Place(ti.dag_id, ti.run_id, ti.task_id, index, ti.try_number, lives)
