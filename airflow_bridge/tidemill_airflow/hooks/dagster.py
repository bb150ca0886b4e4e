"""`DagsterHook`: what a task asks of Dagster, over GraphQL and HTTP."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

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
from tidemill_airflow.hooks.endpoint import Endpoint, build_endpoint
from tidemill_airflow.hooks.transport import (
    JsonObject,
    aexecute,
    execute,
    extract_materialized_at,
    extract_run,
)
from tidemill_airflow.runs import Attempt, Run, RunError, oldest_and_duplicates

if TYPE_CHECKING:
    from airflow.sdk import Connection


class DagsterHook(BaseHook):
    """Asks one Dagster webserver, or Dagster+.

    The connection's fields: host, port (3000), schema (http or https), password (the token), and
    extra: `path` (a prefix or a deployment) and `ui` (where people see Dagster, for links).
    Every question raises `DagsterUnreached` where nobody listens, `ReplyLost` where no answer came
    within `timeout` seconds, `DagsterRefused`, and `InputRefused` for a wrong connection.
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
        """Where Dagster is, by the connection."""
        if self._endpoint is None:
            self._endpoint = _endpoint_from_connection(self.get_connection(self.dagster_conn_id))
        return self._endpoint

    async def aget_conn(self) -> Endpoint:
        """As `get_conn`, for triggers."""
        if self._endpoint is None:
            self._endpoint = _endpoint_from_connection(
                await self.aget_connection(self.dagster_conn_id)
            )
        return self._endpoint

    def test_connection(self) -> tuple[bool, str]:
        """Whether Dagster answers, and what it says; the test button of the UI."""
        try:
            return True, f"Dagster {self.execute(graphql.VERSION)['version']} answers."
        except BridgeError as error:
            return False, str(error)

    def execute(self, document: str, **variables: object) -> JsonObject:
        """The data of an answer."""
        return execute(self.get_conn(), document, variables, self.timeout)

    async def aexecute(self, document: str, **variables: object) -> JsonObject:
        """As `ask`, for triggers."""
        return await aexecute(await self.aget_conn(), document, variables, self.timeout)

    def resolve_repository(
        self, assets: Sequence[str], partitions: Sequence[str]
    ) -> Mapping[str, Any]:
        """The repository that holds all these assets, each of which has these partitions.

        Two partitions are the ends of a range, one is alone, none is for what has none. Raises
        `AssetUnknown`, `PartitionUnknown`: Dagster itself would run such a partition in vain, and
        call that a success.
        """
        nodes = self.execute(graphql.ASSETS, keys=graphql.asset_key_inputs(assets))["assetNodes"]
        nodes_by_key = {"/".join(node["assetKey"]["path"]): node for node in nodes}
        for asset in assets:
            if not nodes_by_key.get(asset, {}).get("isMaterializable"):
                self._check_locations_loaded()
                raise UnknownAsset(
                    f"Dagster at {self.get_conn().base_url} has no asset {asset} to materialize.",
                    "Compare its catalog; a key has slashes in it, such as flights/kafka_batch.",
                )
        repositories = {
            str(node["repository"]): node["repository"] for node in nodes_by_key.values()
        }
        if len(repositories) != 1:
            raise UnknownAsset(
                f"The assets {', '.join(assets)} lie in {len(repositories)} code locations.",
                "One run works in one of them: make a task for each.",
            )
        self._check_partitions([nodes_by_key[asset] for asset in assets], list(assets), partitions)
        return next(iter(repositories.values()))

    def _check_locations_loaded(self) -> None:
        """Raises `DagsterUnreached` while a code location is down: its assets are unknown then."""
        unloaded = graphql.unloaded_locations(self.execute(graphql.LOCATIONS)["workspaceOrError"])
        if unloaded:
            raise DagsterUnreachable(
                f"The code of {', '.join(unloaded)} is not loaded in Dagster.",
                "Its code server is down or broken; it is waited for. Reload it in Dagster.",
            )

    def _check_partitions(
        self, nodes: Sequence[JsonObject], assets: Sequence[str], partitions: Sequence[str]
    ) -> None:
        partitioned = [a for a, node in zip(assets, nodes, strict=True) if node["isPartitioned"]]
        if bool(partitioned) != bool(partitions) and (partitioned or assets):
            subject = f"{', '.join(partitioned or assets)} {'has' if partitioned else 'has no'}"
            raise UnknownPartition(
                f"{subject} partitions, and {'none was' if partitioned else 'one was'} asked for.",
                "Let the task's `partition` name one, such as PARTITION_KEY in a DAG scheduled by "
                "CronPartitionTimetable."
                if partitioned
                else "Leave out the task's `partition`.",
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
                f"{' to '.join(p[:80] for p in partitions)!r} is no partition of "
                f"{', '.join(partitioned)}.",
                "Compare the key with Dagster's: the form, the time zone, whether it has ended by "
                "the clock of Dagster's machine, and for a range its order.",
            )

    def _are_time_partitions(
        self, keys: list[dict[str, list[str]]], partitions: Sequence[str]
    ) -> bool:
        """By a backfill's preview: some milliseconds, where listing 500,000 keys takes 19 s.

        Of a key that is no window's, Dagster makes the next that is, or fails.
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
        """Ask for one run, once. After `ReplyLost` there may be one; `find` tells."""
        params = graphql.launch_params(repository, assets, run_config, tags)
        response = self.execute(graphql.LAUNCH, params=params)["launchPipelineExecution"]
        if graphql.USER_CODE_UNREACHABLE in graphql.error_message(response):
            raise ResponseLost(
                f"Its code server is down: {graphql.error_message(response)}.", "Reload the code."
            )
        if response["__typename"] != "LaunchRunSuccess":
            raise DagsterRejected(
                f"Dagster started no run of {', '.join(assets)}: {graphql.error_message(response)}.",
                "Mend what it names; its code location must be loaded.",
            )
        return graphql.parse_run(response["run"])

    def find_run(self, attempt: Attempt) -> Run | None:
        """The run of this ask, if there is one. A second one, which must not be, is ended."""
        tags = [{"key": key, "value": value} for key, value in attempt.tags.items()]
        response = self.execute(graphql.FIND_RUNS, filter={"tags": tags})["runsOrError"]
        if response["__typename"] != "Runs":
            raise DagsterRejected(
                f"Dagster finds no runs: {graphql.error_message(response)}.", "Ask it yourself."
            )
        run, duplicates = oldest_and_duplicates(
            [graphql.parse_run(result) for result in response["results"]]
        )
        for duplicate in duplicates:
            if not duplicate.status.is_terminal:
                self.log.warning(
                    "Run %s doubles run %s and is ended.", duplicate.id, run and run.id
                )
                self.terminate(duplicate.id)
        return run

    def get_run(self, run_id: str) -> Run:
        """The run with this id."""
        return extract_run(self.execute(graphql.RUN_STATUS, id=run_id))

    async def aget_run(self, run_id: str) -> Run:
        """As `run`, for triggers."""
        return extract_run(await self.aexecute(graphql.RUN_STATUS, id=run_id))

    def terminate(self, run_id: str, *, force: bool = False) -> None:
        """Tell a run to end, if it has not; `at_once` marks it so, whatever its process does."""
        response = self.execute(graphql.TERMINATE, **_terminate_variables(run_id, force))[
            "terminateRun"
        ]
        self.log.info("Run %s was told to end: %s", run_id, graphql.error_message(response))

    async def aterminate(self, run_id: str) -> None:
        """As `terminate`, for triggers."""
        await self.aexecute(graphql.TERMINATE, **_terminate_variables(run_id, False))

    def run_events(self, run_id: str) -> list[JsonObject]:
        """All events of a run."""
        events: list[JsonObject] = []
        cursor: str | None = None
        while True:
            response = self.execute(graphql.RUN_EVENTS, id=run_id, after=cursor)["runOrError"]
            if "eventConnection" not in response:
                raise DagsterRejected(
                    f"No events of run {run_id}: {graphql.error_message(response)}.", "Look there."
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
        return extract_materialized_at(
            self.execute(graphql.LATEST_MATERIALIZATION, **_latest_variables(asset, partition)),
            asset,
        )

    async def amaterialized_at(self, asset: str, partition: str | None) -> float | None:
        """As `materialized_at`, for triggers."""
        return extract_materialized_at(
            await self.aexecute(
                graphql.LATEST_MATERIALIZATION, **_latest_variables(asset, partition)
            ),
            asset,
        )


def _endpoint_from_connection(connection: "Connection") -> Endpoint:
    return build_endpoint(
        connection.conn_id,
        connection.host,
        connection.port,
        connection.schema,
        connection.password,
        connection.extra_dejson,
    )


def _terminate_variables(run_id: str, force: bool) -> dict[str, str]:
    policy = "MARK_AS_CANCELED_IMMEDIATELY" if force else "SAFE_TERMINATE"
    return {"id": run_id, "policy": policy}


def _latest_variables(asset: str, partition: str | None) -> dict[str, Any]:
    (key,) = graphql.asset_key_inputs([asset])
    return {"key": key, "partitions": [partition] if partition else None}
