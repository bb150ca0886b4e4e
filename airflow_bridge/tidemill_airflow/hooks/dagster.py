"""`DagsterHook`: the requests of a task to Dagster, over GraphQL."""

from collections.abc import Mapping, Sequence
from typing import Any

from airflow.sdk import BaseHook

from tidemill_airflow import graphql
from tidemill_airflow.errors import (
    BridgeError,
    DagsterRejected,
    DagsterUnreachable,
    ResponseLost,
    UnknownAsset,
    UnknownPartition,
)
from tidemill_airflow.hooks.endpoint import Endpoint, endpoint_from_connection
from tidemill_airflow.hooks.transport import (
    JsonObject,
    aexecute,
    execute,
    extract_materialized_at,
    extract_run,
)
from tidemill_airflow.runs import Attempt, Run, RunError, oldest_and_duplicates


class DagsterHook(BaseHook):
    """A client of one Dagster webserver, or of Dagster+.

    The connection's fields: host, port (3000), schema (http or https), password (the token), and
    extra: `path` (a prefix or a deployment) and `ui` (the URL that people use, for links).
    Every request raises `DagsterUnreachable` if no server listens, `ResponseLost` if no response
    arrives within `timeout` seconds, `DagsterRejected`, and `InvalidInput` for an invalid
    connection.
    """

    conn_name_attr = "dagster_conn_id"
    default_conn_name = "dagster_default"
    conn_type = "dagster"
    hook_name = "Dagster"

    def __init__(self, dagster_conn_id: str = default_conn_name, timeout: float = 30.0) -> None:
        super().__init__()
        self.dagster_conn_id = dagster_conn_id
        self.timeout = timeout
        self._endpoint: Endpoint | None = None

    def get_conn(self) -> Endpoint:
        """The endpoint of the connection."""
        if self._endpoint is None:
            self._endpoint = endpoint_from_connection(self.get_connection(self.dagster_conn_id))
        return self._endpoint

    async def aget_conn(self) -> Endpoint:
        """As `get_conn`, for triggers."""
        if self._endpoint is None:
            self._endpoint = endpoint_from_connection(
                await self.aget_connection(self.dagster_conn_id)
            )
        return self._endpoint

    def test_connection(self) -> tuple[bool, str]:
        """Whether Dagster responds, and its version or the error; the test button of the UI."""
        try:
            return True, f"Dagster {self.execute(graphql.VERSION)['version']} responds."
        except BridgeError as error:
            return False, str(error)

    def execute(self, document: str, **variables: object) -> JsonObject:
        """The data of a response."""
        return execute(self.get_conn(), document, variables, self.timeout)

    async def aexecute(self, document: str, **variables: object) -> JsonObject:
        """As `execute`, for triggers."""
        return await aexecute(await self.aget_conn(), document, variables, self.timeout)

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
    ) -> Run:
        """Launch one run, without retries. After `ResponseLost` it may exist: see `find_run`."""
        params = graphql.launch_params(repository, assets, run_config, tags)
        response = self.execute(graphql.LAUNCH, params=params)["launchPipelineExecution"]
        if graphql.USER_CODE_UNREACHABLE in graphql.error_message(response):
            raise ResponseLost(
                f"The code server is down: {graphql.error_message(response)}.", "Reload the code."
            )
        if response["__typename"] != "LaunchRunSuccess":
            raise DagsterRejected(
                f"No run of {', '.join(assets)} was launched: {graphql.error_message(response)}.",
                "Fix what the message names; the code location must be loaded.",
            )
        return graphql.parse_run(response["run"])

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

    def get_run(self, run_id: str) -> Run:
        """The run with this id."""
        return extract_run(self.execute(graphql.RUN_STATUS, id=run_id))

    async def aget_run(self, run_id: str) -> Run:
        """As `get_run`, for triggers."""
        return extract_run(await self.aexecute(graphql.RUN_STATUS, id=run_id))

    def terminate(self, run_id: str, *, force: bool = False) -> None:
        """Terminate a run that is active; with `force`, mark it as canceled immediately."""
        variables = graphql.terminate_variables(run_id, force=force)
        response = self.execute(graphql.TERMINATE, **variables)["terminateRun"]
        self.log.info("Run %s is being terminated: %s", run_id, graphql.error_message(response))

    async def aterminate(self, run_id: str) -> None:
        """As `terminate`, for triggers."""
        await self.aexecute(graphql.TERMINATE, **graphql.terminate_variables(run_id))

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
