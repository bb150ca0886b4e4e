"""`DagsterHook`: what a task asks of Dagster, over GraphQL and HTTP."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseHook

from tidemill_airflow import graphql
from tidemill_airflow.errors import (
    AssetUnknown,
    BridgeError,
    DagsterRefused,
    DagsterUnreached,
    PartitionUnknown,
    ReplyLost,
)
from tidemill_airflow.hooks.endpoint import Endpoint, endpoint
from tidemill_airflow.hooks.transport import Answer, aask, ask, latest_in, run_in
from tidemill_airflow.runs import Attempt, Fault, Run, first_of

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
            self._endpoint = _endpoint_of(self.get_connection(self.dagster_conn_id))
        return self._endpoint

    async def aget_conn(self) -> Endpoint:
        """As `get_conn`, for triggers."""
        if self._endpoint is None:
            self._endpoint = _endpoint_of(await self.aget_connection(self.dagster_conn_id))
        return self._endpoint

    def test_connection(self) -> tuple[bool, str]:
        """Whether Dagster answers, and what it says; the test button of the UI."""
        try:
            return True, f"Dagster {self.ask(graphql.VERSION)['version']} answers."
        except BridgeError as error:
            return False, str(error)

    def ask(self, document: str, **variables: object) -> Answer:
        """The data of an answer."""
        return ask(self.get_conn(), document, variables, self.timeout)

    async def aask(self, document: str, **variables: object) -> Answer:
        """As `ask`, for triggers."""
        return await aask(await self.aget_conn(), document, variables, self.timeout)

    def repository(self, assets: Sequence[str], partitions: Sequence[str]) -> Mapping[str, Any]:
        """The repository that holds all these assets, each of which has these partitions.

        Two partitions are the ends of a range, one is alone, none is for what has none. Raises
        `AssetUnknown`, `PartitionUnknown`: Dagster itself would run such a partition in vain, and
        call that a success.
        """
        nodes = self.ask(graphql.ASSETS, keys=graphql.asset_keys(assets))["assetNodes"]
        found = {"/".join(node["assetKey"]["path"]): node for node in nodes}
        for asset in assets:
            if not found.get(asset, {}).get("isMaterializable"):
                self._check_loaded()
                raise AssetUnknown(
                    f"Dagster at {self.get_conn().address} has no asset {asset} to materialize.",
                    "Compare its catalog; a key has slashes in it, such as flights/kafka_batch.",
                )
        homes = {str(node["repository"]): node["repository"] for node in found.values()}
        if len(homes) != 1:
            raise AssetUnknown(
                f"The assets {', '.join(assets)} lie in {len(homes)} code locations.",
                "One run works in one of them: make a task for each.",
            )
        self._check_partitions([found[asset] for asset in assets], list(assets), partitions)
        return next(iter(homes.values()))

    def _check_loaded(self) -> None:
        """Raises `DagsterUnreached` while a code location is down: its assets are unknown then."""
        gone = graphql.unloaded(self.ask(graphql.LOCATIONS)["workspaceOrError"])
        if gone:
            raise DagsterUnreached(
                f"The code of {', '.join(gone)} is not loaded in Dagster.",
                "Its code server is down or broken; it is waited for. Reload it in Dagster.",
            )

    def _check_partitions(
        self, nodes: Sequence[Answer], assets: Sequence[str], partitions: Sequence[str]
    ) -> None:
        partitioned = [a for a, node in zip(assets, nodes, strict=True) if node["isPartitioned"]]
        if bool(partitioned) != bool(partitions) and (partitioned or assets):
            what = f"{', '.join(partitioned or assets)} {'has' if partitioned else 'has no'}"
            raise PartitionUnknown(
                f"{what} partitions, and {'none was' if partitioned else 'one was'} asked for.",
                "Let the task's `partition` name one, such as PARTITION_KEY in a DAG scheduled by "
                "CronPartitionTimetable."
                if partitioned
                else "Leave out the task's `partition`.",
            )
        if not partitions:
            return
        kinds = {(node["partitionDefinition"] or {}).get("type") for node in nodes}
        keys = graphql.asset_keys(partitioned)
        if kinds - {None} == {"TIME_WINDOW"}:
            known = self._are_windows(keys, partitions)
        else:
            told = self.ask(graphql.PARTITION_KEYS, keys=keys)["assetNodes"]
            known = all(set(partitions) <= set(node["partitionKeys"]) for node in told)
        if not known:
            raise PartitionUnknown(
                f"{' to '.join(p[:80] for p in partitions)!r} is no partition of "
                f"{', '.join(partitioned)}.",
                "Compare the key with Dagster's: the form, the time zone, whether it has ended by "
                "the clock of Dagster's machine, and for a range its order.",
            )

    def _are_windows(self, keys: list[dict[str, list[str]]], partitions: Sequence[str]) -> bool:
        """By a backfill's preview: some milliseconds, where listing 500,000 keys takes 19 s.

        Of a key that is no window's, Dagster makes the next that is, or fails.
        """
        params = {"assetSelection": keys, "partitionNames": list(dict.fromkeys(partitions))}
        try:
            told = self.ask(graphql.WINDOWS, params=params)["assetBackfillPreview"]
        except DagsterRefused:
            return False
        return graphql.ends_of(told) == {(partitions[0], partitions[-1])}

    def launch(
        self,
        repository: Mapping[str, Any],
        assets: Sequence[str],
        run_config: Mapping[str, Any],
        tags: Mapping[str, str],
    ) -> Run:
        """Ask for one run, once. After `ReplyLost` there may be one; `find` tells."""
        params = graphql.launch_params(repository, assets, run_config, tags)
        told = self.ask(graphql.LAUNCH, params=params)["launchPipelineExecution"]
        if graphql.UNREACHABLE in graphql.why(told):
            raise ReplyLost(f"Its code server is down: {graphql.why(told)}.", "Reload the code.")
        if told["__typename"] != "LaunchRunSuccess":
            raise DagsterRefused(
                f"Dagster started no run of {', '.join(assets)}: {graphql.why(told)}.",
                "Mend what it names; its code location must be loaded.",
            )
        return graphql.run_of(told["run"])

    def find(self, attempt: Attempt) -> Run | None:
        """The run of this ask, if there is one. A second one, which must not be, is ended."""
        tags = [{"key": key, "value": value} for key, value in attempt.tags.items()]
        told = self.ask(graphql.FIND, filter={"tags": tags})["runsOrError"]
        if told["__typename"] != "Runs":
            raise DagsterRefused(f"Dagster finds no runs: {graphql.why(told)}.", "Ask it yourself.")
        run, others = first_of([graphql.run_of(result) for result in told["results"]])
        for other in others:
            if not other.status.is_terminal:
                self.log.warning("Run %s doubles run %s and is ended.", other.id, run and run.id)
                self.terminate(other.id)
        return run

    def run(self, run_id: str) -> Run:
        """The run with this id."""
        return run_in(self.ask(graphql.STATUS, id=run_id))

    async def arun(self, run_id: str) -> Run:
        """As `run`, for triggers."""
        return run_in(await self.aask(graphql.STATUS, id=run_id))

    def terminate(self, run_id: str, *, at_once: bool = False) -> None:
        """Tell a run to end, if it has not; `at_once` marks it so, whatever its process does."""
        told = self.ask(graphql.TERMINATE, **_termination(run_id, at_once))["terminateRun"]
        self.log.info("Run %s was told to end: %s", run_id, graphql.why(told))

    async def aterminate(self, run_id: str) -> None:
        """As `terminate`, for triggers."""
        await self.aask(graphql.TERMINATE, **_termination(run_id, False))

    def events(self, run_id: str) -> list[Answer]:
        """All events of a run."""
        found: list[Answer] = []
        after: str | None = None
        while True:
            told = self.ask(graphql.EVENTS, id=run_id, after=after)["runOrError"]
            if "eventConnection" not in told:
                raise DagsterRefused(
                    f"No events of run {run_id}: {graphql.why(told)}.", "Look there."
                )
            page = told["eventConnection"]
            found += page["events"]
            after = page["cursor"]
            if not page["hasMore"]:
                return found

    def faults(self, run_id: str) -> list[Fault]:
        """The errors of a run."""
        return graphql.faults_of(self.events(run_id))

    def materialized_at(self, asset: str, partition: str | None) -> float | None:
        """When the asset, or this partition of it, was last materialized; seconds since 1970."""
        return latest_in(self.ask(graphql.LATEST, **_one(asset, partition)), asset)

    async def amaterialized_at(self, asset: str, partition: str | None) -> float | None:
        """As `materialized_at`, for triggers."""
        return latest_in(await self.aask(graphql.LATEST, **_one(asset, partition)), asset)


def _endpoint_of(connection: "Connection") -> Endpoint:
    return endpoint(
        connection.conn_id,
        connection.host,
        connection.port,
        connection.schema,
        connection.password,
        connection.extra_dejson,
    )


def _termination(run_id: str, at_once: bool) -> dict[str, str]:
    policy = "MARK_AS_CANCELED_IMMEDIATELY" if at_once else "SAFE_TERMINATE"
    return {"id": run_id, "policy": policy}


def _one(asset: str, partition: str | None) -> dict[str, Any]:
    (key,) = graphql.asset_keys([asset])
    return {"key": key, "partitions": [partition] if partition else None}
