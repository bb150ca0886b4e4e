"""`DagsterHook`: the requests of a task to Dagster, over GraphQL."""

from collections.abc import Mapping, Sequence
from typing import Any

from tidemill_airflow import graphql
from tidemill_airflow.errors import (
    BridgeError,
    DagsterRejected,
    DagsterUnreachable,
    ResponseLost,
    UnknownAsset,
    UnknownPartition,
)
from tidemill_airflow.hooks.client import DagsterClient
from tidemill_airflow.hooks.transport import (
    JsonObject,
    extract_materialized_at,
    extract_run,
    retried,
)
from tidemill_airflow.runs import Attempt, Run, RunError, Unanswered, oldest_and_duplicates


class DagsterHook(DagsterClient):
    """The requests of a task. Methods marked `retried` wait while Dagster does not respond."""

    @retried
    def resolve_repository(
        self, assets: Sequence[str], partitions: Sequence[str]
    ) -> Mapping[str, Any]:
        """The repository that contains all these assets, each of which has these partitions.

        Two partitions are the bounds of a range; assets without partitions take none. Raises
        `UnknownAsset` and `UnknownPartition`: for an unknown partition, Dagster would launch a run
        that does nothing and succeeds.
        """
        nodes = self.execute(graphql.ASSETS, keys=graphql.asset_key_inputs(assets))["assetNodes"]
        nodes_by_key = {"/".join(node["assetKey"]["path"]): node for node in nodes}
        for asset in assets:
            if not nodes_by_key.get(asset, {}).get("isMaterializable"):
                self._check_locations_loaded()
                raise UnknownAsset(
                    f"Dagster at {self.get_conn().base_url} has no asset {asset} to materialize.",
                    "Compare Dagster's catalog; keys contain slashes, such as flights/kafka_batch.",
                )
        repositories = {str(n["repository"]): n["repository"] for n in nodes_by_key.values()}
        if len(repositories) != 1:
            raise UnknownAsset(
                f"The assets {', '.join(assets)} are in {len(repositories)} code locations.",
                "A run uses only one: create a task per code location.",
            )
        self._check_partitions([nodes_by_key[asset] for asset in assets], list(assets), partitions)
        return next(iter(repositories.values()))

    def _check_locations_loaded(self) -> None:
        """Raises `DagsterUnreachable` while a code location, and with it its assets, is missing."""
        unloaded = graphql.unloaded_locations(self.execute(graphql.LOCATIONS)["workspaceOrError"])
        if unloaded:
            raise DagsterUnreachable(
                f"The code of {', '.join(unloaded)} is not loaded in Dagster.",
                "Its code server is down or broken. The task waits until you reload it in Dagster.",
            )

    def _check_partitions(
        self, nodes: Sequence[JsonObject], assets: Sequence[str], partitions: Sequence[str]
    ) -> None:
        partitioned = [a for a, node in zip(assets, nodes, strict=True) if node["isPartitioned"]]
        if bool(partitioned) != bool(partitions) and (partitioned or assets):
            subject = f"{', '.join(partitioned or assets)} {'has' if partitioned else 'has no'}"
            raise UnknownPartition(
                f"{subject} partitions, but {'none was' if partitioned else 'one was'} requested.",
                "Set the task's `partition`, for example to PARTITION_KEY in a DAG scheduled by "
                "CronPartitionTimetable."
                if partitioned
                else "Omit the task's `partition`.",
            )
        if not partitions:
            return
        partition_types = {(node["partitionDefinition"] or {}).get("type") for node in nodes}
        keys = graphql.asset_key_inputs(partitioned)
        if partition_types - {None} == {"TIME_WINDOW"}:
            valid = self._are_time_partitions(keys, partitions)
        else:
            partition_nodes = self.execute(graphql.PARTITION_KEYS, keys=keys)["assetNodes"]
            valid = all(set(partitions) <= set(node["partitionKeys"]) for node in partition_nodes)
        if not valid:
            raise UnknownPartition(
                f"{' to '.join(p[:80] for p in partitions)!r} is not a partition of "
                f"{', '.join(partitioned)}.",
                "Compare the key with Dagster's: its format, its time zone, whether the partition "
                "has ended by the clock of Dagster's machine, and the order of a range.",
            )

    def _are_time_partitions(self, keys: list[JsonObject], partitions: Sequence[str]) -> bool:
        """Whether these are valid keys, by the preview of a backfill.

        It takes some milliseconds, while listing 500,000 keys takes 19 s. For an invalid key,
        Dagster resolves the next valid one or fails.
        """
        params = {"assetSelection": keys, "partitionNames": list(dict.fromkeys(partitions))}
        try:
            preview = self.execute(graphql.BACKFILL_PREVIEW, params=params)["assetBackfillPreview"]
        except DagsterRejected:
            return False
        return graphql.partition_bounds(preview) == {(partitions[0], partitions[-1])}

    def launch(
        self,
        repository: Mapping[str, Any],
        assets: Sequence[str],
        run_config: Mapping[str, Any],
        tags: Mapping[str, str],
    ) -> Run | Unanswered:
        """Send one request to launch a run. Without a response, wait as before a retry.

        The caller retries, because it has to look for the run first: see `find_run`.
        """
        params = graphql.launch_params(repository, assets, run_config, tags)
        try:
            response = self.execute(graphql.LAUNCH, params=params)["launchPipelineExecution"]
            if graphql.USER_CODE_UNREACHABLE in graphql.error_message(response):
                message = f"The code server is down: {graphql.error_message(response)}."
                raise ResponseLost(message, "Reload the code.")
        except (DagsterUnreachable, ResponseLost) as error:
            self.retry.wait_or_raise(error)
            is_lost = isinstance(error, ResponseLost)
            return Unanswered.RESPONSE_LOST if is_lost else Unanswered.NOT_SENT
        if response["__typename"] != "LaunchRunSuccess":
            raise DagsterRejected(
                f"No run of {', '.join(assets)} was launched: {graphql.error_message(response)}.",
                "Fix what the message names; the code location must be loaded.",
            )
        return graphql.parse_run(response["run"])

    @retried
    def find_run(self, attempt: Attempt) -> Run | None:
        """The run of this attempt; None if there is none. A duplicate is terminated."""
        tags = [{"key": key, "value": value} for key, value in attempt.tags.items()]
        response = self.execute(graphql.FIND_RUNS, filter={"tags": tags})["runsOrError"]
        if response["__typename"] != "Runs":
            raise DagsterRejected(
                f"Dagster cannot list runs: {graphql.error_message(response)}.",
                "See the log of dagster-webserver.",
            )
        runs = [graphql.parse_run(node) for node in response["results"]]
        run, duplicates = oldest_and_duplicates(runs)
        for duplicate in duplicates:
            if not duplicate.status.is_terminal:
                self.log.warning(
                    "Terminating run %s, a duplicate of %s.", duplicate.id, run and run.id
                )
                self.terminate(duplicate.id)
        return run

    def poll_run(self, run: Run) -> Run:
        """The run as it is now, or unchanged if Dagster does not say: the next poll may tell."""
        try:
            return extract_run(self.execute(graphql.RUN_STATUS, id=run.id))
        except BridgeError as error:
            self.log.warning("Polling Dagster failed and is retried: %s", error)
            return run

    async def apoll_run(self, run: Run) -> Run:
        """As `poll_run`, for triggers."""
        try:
            return extract_run(await self.aexecute(graphql.RUN_STATUS, id=run.id))
        except BridgeError as error:
            self.log.warning("Polling Dagster failed and is retried: %s", error)
            return run

    def try_to_terminate(self, run_id: str, *, force: bool = False) -> None:
        """As `terminate`, but a failure is only logged."""
        try:
            self.terminate(run_id, force=force)
        except BridgeError as error:
            self.log.error("Run %s could not be terminated: %s", run_id, error)

    def terminate(self, run_id: str, *, force: bool = False) -> None:
        """Terminate a run that is active; with `force`, mark it as canceled immediately."""
        variables = graphql.terminate_variables(run_id, force=force)
        response = self.execute(graphql.TERMINATE, **variables)["terminateRun"]
        self.log.info("Run %s is being terminated: %s", run_id, graphql.error_message(response))

    async def aterminate(self, run_id: str) -> None:
        """As `terminate`, for triggers."""
        await self.aexecute(graphql.TERMINATE, **graphql.terminate_variables(run_id))

    @retried
    def run_events(self, run_id: str) -> list[JsonObject]:
        """All events of a run."""
        events: list[JsonObject] = []
        cursor: str | None = None
        while True:
            response = self.execute(graphql.RUN_EVENTS, id=run_id, after=cursor)["runOrError"]
            if "eventConnection" not in response:
                raise DagsterRejected(
                    f"No events of run {run_id}: {graphql.error_message(response)}.",
                    "See the log of dagster-webserver.",
                )
            page = response["eventConnection"]
            events += page["events"]
            cursor = page["cursor"]
            if not page["hasMore"]:
                return events

    def run_errors(self, run_id: str) -> list[RunError]:
        """The errors of a run."""
        return graphql.parse_errors(self.run_events(run_id))

    def materialized_at(self, asset: str, partition: str | None) -> float | None:
        """When the asset, or this partition of it, was last materialized; seconds since 1970."""
        variables = graphql.latest_variables(asset, partition)
        return extract_materialized_at(
            self.execute(graphql.LATEST_MATERIALIZATION, **variables), asset
        )

    async def amaterialized_at(self, asset: str, partition: str | None) -> float | None:
        """As `materialized_at`, for triggers."""
        variables = graphql.latest_variables(asset, partition)
        return extract_materialized_at(
            await self.aexecute(graphql.LATEST_MATERIALIZATION, **variables), asset
        )
