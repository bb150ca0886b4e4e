"""Dagster's webserver and daemon on a harness's instance, and a GraphQL client."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests
from dagster import DagsterInstance

from support.processes.commands import background, output, wait_until
from support.servers.http import free_port

ROOT = Path(__file__).parents[3]

_NODES = (
    "{ repositoriesOrError { ... on RepositoryConnection { nodes { name location { name } } } } }"
)
_ASSETS = "{ assetNodes { assetKey { path } } }"
_BACKFILL = """
mutation($params: LaunchBackfillParams!) { launchPartitionBackfill(backfillParams: $params) {
  __typename ... on LaunchBackfillSuccess { backfillId } ... on PythonError { message } } }
"""
_STATUS = """
query($id: String!) { partitionBackfillOrError(backfillId: $id) { ... on PartitionBackfill {
  status error { message } runs { id status } } } }
"""
_LAUNCH = """
mutation($params: ExecutionParams!) { launchPipelineExecution(executionParams: $params) {
  __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message } } }
"""
_RUN = "query($id: ID!) { runOrError(runId: $id) { ... on Run { status } } }"
_FINAL_STATUSES = ("SUCCESS", "FAILURE", "CANCELED")


@dataclass(frozen=True)
class DagsterClient:
    """A GraphQL client of a webserver."""

    address: str

    def execute(self, query: str, **variables: object) -> Any:
        payload = requests.post(
            f"{self.address}/graphql", json={"query": query, "variables": variables}, timeout=60
        ).json()
        assert not payload.get("errors"), payload
        return payload["data"]

    def assets(self) -> set[str]:
        return {"/".join(node["assetKey"]["path"]) for node in self.execute(_ASSETS)["assetNodes"]}

    def backfill(self, model: str, assets: Sequence[str], windows: Sequence[str]) -> str:
        """Launch a backfill as the UI does; its id."""
        params = {
            "assetSelection": [{"path": [model, asset]} for asset in assets],
            "partitionNames": list(windows),
            "fromFailure": False,
        }
        result = self.execute(_BACKFILL, params=params)["launchPartitionBackfill"]
        assert result["__typename"] == "LaunchBackfillSuccess", result
        return str(result["backfillId"])

    def wait_for_backfill(self, backfill: str, timeout: float = 240) -> Any:
        """Wait until a backfill has ended; its status, error and runs."""
        latest: list[Any] = [None]

        def has_ended() -> bool:
            latest[0] = self.execute(_STATUS, id=backfill)["partitionBackfillOrError"]
            return latest[0]["status"] in ("COMPLETED_SUCCESS", "COMPLETED_FAILED", "FAILED")

        wait_until(has_ended, timeout, on_timeout=lambda: str(latest[0]))
        return latest[0]

    def launch(self, model: str, assets: Sequence[str], tags: Mapping[str, str]) -> Any:
        """Launch one run of these assets; the result of the mutation."""
        (node,) = self.execute(_NODES)["repositoriesOrError"]["nodes"]
        params = {
            "selector": {
                "repositoryLocationName": node["location"]["name"],
                "repositoryName": node["name"],
                "pipelineName": "__ASSET_JOB",
                "assetSelection": [{"path": [model, asset]} for asset in assets],
                "assetCheckSelection": None,
            },
            "mode": "default",
            "executionMetadata": {"tags": [{"key": k, "value": v} for k, v in tags.items()]},
        }
        return self.execute(_LAUNCH, params=params)["launchPipelineExecution"]

    def status(self, run: str) -> str:
        return str(self.execute(_RUN, id=run)["runOrError"]["status"])

    def wait_for_run(self, run: str, timeout: float = 120) -> str:
        """Wait until a run has ended; its status."""
        wait_until(
            lambda: self.status(run) in _FINAL_STATUSES,
            timeout,
            on_timeout=lambda: self.status(run),
        )
        return self.status(run)


@contextmanager
def running_dagster(env: Mapping[str, str], *, daemon: bool = True) -> Iterator[DagsterClient]:
    """A webserver and a daemon over `workspace.yaml`, on the instance of `TIDEMILL_HOME`."""
    home = Path(env["TIDEMILL_HOME"])
    folder = home / "dagster"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "dagster.yaml").write_bytes((ROOT / "deploy" / "dagster.yaml").read_bytes())
    env = {**env, "DAGSTER_HOME": str(folder)}
    with DagsterInstance.from_config(str(folder)):
        pass  # else both processes create its databases concurrently, and one fails
    workspace, port = str(ROOT / "workspace.yaml"), free_port()
    address = ("-h", "127.0.0.1", "-p", str(port))
    with ExitStack() as stack:
        stack.enter_context(
            _service(env, "dagster-webserver", "-w", workspace, *address, name="webserver")
        )
        if daemon:
            stack.enter_context(
                _service(env, "dagster-daemon", "run", "-w", workspace, name="daemon")
            )
        yield wait_for_webserver(env, port, "webserver")


@contextmanager
def _service(env: Mapping[str, str], *command: str, name: str) -> Iterator[None]:
    with background(env, *command, name=name) as process:
        yield
        process.terminate()
        process.wait(60)


def wait_for_webserver(env: Mapping[str, str], port: int, name: str) -> DagsterClient:
    """A client of the webserver on this port, once it responds."""
    client = DagsterClient(f"http://127.0.0.1:{port}")

    def is_ready() -> bool:
        try:
            return bool(client.assets())
        except requests.ConnectionError:
            return False

    wait_until(is_ready, 120, on_timeout=lambda: output(env, name))
    return client
