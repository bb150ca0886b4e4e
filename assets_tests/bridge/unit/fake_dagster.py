"""A fake Dagster webserver with scripted responses, and a fake Airflow task instance.

It needs the standard library only, for the tests that run without Dagster.
"""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from types import SimpleNamespace
from typing import Any

from support.servers.http import running_http_server, send_response


@dataclass
class FakeDagster:
    """Responds to GraphQL by the operation's name; each run goes through its statuses.

    `launches` has the outcome of each launch in turn: "created" (the default), "response_lost"
    (created, but the connection is closed without a response), "connection_dropped" (not created,
    and the connection is closed) or a response.
    """

    address: str = ""
    statuses: list[list[str]] = field(default_factory=lambda: [["STARTED", "SUCCESS"]])
    launches: list[Any] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)
    node: dict[str, Any] = field(default_factory=dict)
    windows: list[dict[str, str]] = field(default_factory=list)
    polls_until_loaded: int = 0
    """The number of polls for which a code location is not loaded yet."""
    runs: list[dict[str, Any]] = field(default_factory=list)
    requests: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)
    status_code: int = 200

    @property
    def operation_names(self) -> list[str]:
        return [name for name, _ in self.requests]

    def respond(self, name: str, variables: dict[str, Any]) -> Any:
        """The data of a response; None closes the connection."""
        self.requests.append((name, variables))
        return getattr(self, f"_{name}")(variables)

    def _Version(self, variables: dict[str, Any]) -> Any:  # noqa: N802 - the operation's name
        return {"version": "1.13.27"}

    def _Assets(self, variables: dict[str, Any]) -> Any:  # noqa: N802
        repository = {"name": "__repository__", "location": {"name": "there"}}
        node = {"isMaterializable": True, "isPartitioned": False, "partitionDefinition": None}
        return {
            "assetNodes": [
                {"assetKey": key, "repository": repository, **node, **self.node}
                for key in variables["keys"]
            ]
        }

    def _Locations(self, variables: dict[str, Any]) -> Any:  # noqa: N802
        entry = {"name": "there", "loadStatus": "LOADED"}
        kind = "PythonError" if self.polls_until_loaded else "RepositoryLocation"
        self.polls_until_loaded = max(0, self.polls_until_loaded - 1)
        self.node = self.node if self.polls_until_loaded else {}
        listed = [{**entry, "locationOrLoadError": {"__typename": kind}}]
        return {"workspaceOrError": {"__typename": "Workspace", "locationEntries": listed}}

    def _PartitionKeys(self, variables: dict[str, Any]) -> Any:  # noqa: N802
        return {"assetNodes": [{"partitionKeys": ["red", "green"]} for _ in variables["keys"]]}

    def _Windows(self, variables: dict[str, Any]) -> Any:  # noqa: N802
        return {"assetBackfillPreview": [{"partitions": {"ranges": self.windows}}]}

    def _Launch(self, variables: dict[str, Any]) -> Any:  # noqa: N802
        outcome = self.launches.pop(0) if self.launches else "created"
        if outcome == "connection_dropped":
            return None
        if isinstance(outcome, dict):
            return {"launchPipelineExecution": outcome}
        remaining = self.statuses.pop(0) if len(self.statuses) > 1 else list(self.statuses[0])
        tags = {
            tag["key"]: tag["value"] for tag in variables["params"]["executionMetadata"]["tags"]
        }
        run = {"runId": f"run-{len(self.runs) + 1}", "remaining": remaining, "tags": tags}
        self.runs.append({**run, "creationTime": time.time()})
        if outcome == "response_lost":
            return None
        return {
            "launchPipelineExecution": {
                "__typename": "LaunchRunSuccess",
                "run": self._run_payload(-1),
            }
        }

    def _Find(self, variables: dict[str, Any]) -> Any:  # noqa: N802
        required_tags = {(tag["key"], tag["value"]) for tag in variables["filter"]["tags"]}
        matches = [
            n for n, run in enumerate(self.runs) if required_tags <= set(run["tags"].items())
        ]
        return {
            "runsOrError": {
                "__typename": "Runs",
                "results": [self._run_payload(n) for n in matches],
            }
        }

    def _Status(self, variables: dict[str, Any]) -> Any:  # noqa: N802
        (index,) = [n for n, run in enumerate(self.runs) if run["runId"] == variables["id"]]
        remaining = self.runs[index]["remaining"]
        if len(remaining) > 1:
            remaining.pop(0)
        return {"runOrError": {"__typename": "Run", **self._run_payload(index)}}

    def _Events(self, variables: dict[str, Any]) -> Any:  # noqa: N802
        page = {"cursor": "x", "hasMore": False, "events": self.events}
        return {"runOrError": {"__typename": "Run", "eventConnection": page}}

    def _Terminate(self, variables: dict[str, Any]) -> Any:  # noqa: N802
        (run,) = [run for run in self.runs if run["runId"] == variables["id"]]
        run["remaining"] = ["CANCELED"]
        return {"terminateRun": {"__typename": "TerminateRunSuccess"}}

    def _Latest(self, variables: dict[str, Any]) -> Any:  # noqa: N802
        materializations = [{"timestamp": "1700000000000", "runId": "x", "partition": None}]
        return {
            "assetNodeOrError": {
                "__typename": "AssetNode",
                "assetMaterializations": materializations,
            }
        }

    def _run_payload(self, index: int) -> dict[str, Any]:
        run = self.runs[index]
        payload = {"runId": run["runId"], "status": run["remaining"][0]}
        return {**payload, "creationTime": run["creationTime"]}


@contextmanager
def running_fake_dagster() -> Iterator[FakeDagster]:
    """A fake Dagster that listens on a free port of the loopback interface."""
    fake = FakeDagster()

    def respond(request: BaseHTTPRequestHandler, text: bytes) -> None:
        body = json.loads(text)
        name = body["query"].split("Tidemill", 1)[1].split("(")[0].split()[0]
        fake.headers = dict(request.headers)
        data = fake.respond(name, body["variables"])
        if data is None:
            request.close_connection = True
            return
        send_response(request, fake.status_code, json.dumps({"data": data}).encode())

    with running_http_server(respond) as fake.address:
        yield fake


def connection_json(address: str, **extra: Any) -> str:
    """Airflow's JSON for a connection to this address."""
    scheme, authority = address.split("://")
    host, port = authority.rsplit(":", 1)
    fields = {"conn_type": "dagster", "schema": scheme, "host": host, "port": int(port)}
    return json.dumps({**fields, **extra})


@dataclass
class FakeTaskInstance:
    """One try of a task as its operator sees it; as in Airflow, `store` and `xcoms` outlive it."""

    store: dict[str, Any] = field(default_factory=dict)
    xcoms: dict[str, Any] = field(default_factory=dict)
    try_number: int = 1
    max_tries: int = 2
    extras: dict[str, Any] = field(default_factory=dict)

    def context(self, retries: int = 2) -> Any:
        def push(key: str, value: Any) -> None:
            self.xcoms[key] = value

        ti = SimpleNamespace(
            dag_id="dag", run_id="run", task_id="task", map_index=-1, try_number=self.try_number,
            max_tries=self.max_tries, task=SimpleNamespace(retries=retries), xcom_push=push,
        )  # fmt: skip
        events = {"outlet": SimpleNamespace(extra=self.extras)}
        store = SimpleNamespace(get=self.store.get, set=self.store.__setitem__)
        return {"ti": ti, "task_state_store": store, "outlet_events": events}
