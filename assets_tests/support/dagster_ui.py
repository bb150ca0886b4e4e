"""Dagster's own webserver and daemon on a bench's instance, and a way to ask them."""

import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests
from dagster import DagsterInstance

from commands import begun, said, until

ROOT = Path(__file__).parents[2]

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
_ENDED = ("SUCCESS", "FAILURE", "CANCELED")


@dataclass(frozen=True)
class Ui:
    """A webserver that answers GraphQL at this address."""

    address: str

    def ask(self, query: str, **variables: object) -> Any:
        told = requests.post(
            f"{self.address}/graphql", json={"query": query, "variables": variables}, timeout=60
        ).json()
        assert not told.get("errors"), told
        return told["data"]

    def assets(self) -> set[str]:
        return {"/".join(node["assetKey"]["path"]) for node in self.ask(_ASSETS)["assetNodes"]}

    def backfill(self, model: str, assets: Sequence[str], windows: Sequence[str]) -> str:
        """Launch a backfill as the UI does; its id."""
        params = {
            "assetSelection": [{"path": [model, asset]} for asset in assets],
            "partitionNames": list(windows),
            "fromFailure": False,
        }
        told = self.ask(_BACKFILL, params=params)["launchPartitionBackfill"]
        assert told["__typename"] == "LaunchBackfillSuccess", told
        return str(told["backfillId"])

    def backfilled(self, backfill: str, seconds: float = 240) -> Any:
        """Wait until a backfill has ended; its status, error and runs."""
        seen: list[Any] = [None]

        def ended() -> bool:
            seen[0] = self.ask(_STATUS, id=backfill)["partitionBackfillOrError"]
            return seen[0]["status"] in ("COMPLETED_SUCCESS", "COMPLETED_FAILED", "FAILED")

        until(ended, seconds, lambda: str(seen[0]))
        return seen[0]

    def launch(self, model: str, assets: Sequence[str], tags: Mapping[str, str]) -> Any:
        """Launch one run of these assets; what came of the request."""
        (node,) = self.ask(_NODES)["repositoriesOrError"]["nodes"]
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
        return self.ask(_LAUNCH, params=params)["launchPipelineExecution"]

    def status(self, run: str) -> str:
        return str(self.ask(_RUN, id=run)["runOrError"]["status"])

    def ended(self, run: str, seconds: float = 120) -> str:
        """Wait until a run has ended; its status."""
        until(lambda: self.status(run) in _ENDED, seconds, lambda: self.status(run))
        return self.status(run)


@contextmanager
def served(environment: Mapping[str, str], *, daemon: bool = True) -> Iterator[Ui]:
    """A webserver and a daemon over `workspace.yaml`, on the instance of `TIDEMILL_HOME`."""
    home = Path(environment["TIDEMILL_HOME"])
    folder = home / "dagster"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "dagster.yaml").write_bytes((ROOT / "deploy" / "dagster.yaml").read_bytes())
    environment = {**environment, "DAGSTER_HOME": str(folder)}
    with DagsterInstance.from_config(str(folder)):
        pass  # else the two of them create its databases at once, and one fails
    workspace, port = str(ROOT / "workspace.yaml"), free_port()
    with ExitStack() as stack:
        web = ("dagster-webserver", "-w", workspace, "-h", "127.0.0.1", "-p", str(port))
        stack.enter_context(_stopped(environment, *web, name="webserver"))
        if daemon:
            stack.enter_context(
                _stopped(environment, "dagster-daemon", "run", "-w", workspace, name="daemon")
            )
        yield answering(environment, port, "webserver")


@contextmanager
def _stopped(environment: Mapping[str, str], *words: str, name: str) -> Iterator[None]:
    with begun(environment, *words, name=name) as process:
        yield
        process.terminate()
        process.wait(60)


def answering(environment: Mapping[str, str], port: int, name: str) -> Ui:
    """The UI at this port, once it answers."""
    ui = Ui(f"http://127.0.0.1:{port}")

    def answers() -> bool:
        try:
            return bool(ui.assets())
        except requests.ConnectionError:
            return False

    until(answers, 120, lambda: said(environment, name))
    return ui


def free_port() -> int:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return int(bound.getsockname()[1])
