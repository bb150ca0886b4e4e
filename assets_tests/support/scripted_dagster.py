"""A webserver that answers as it is told, in Dagster's words, and a task's try as Airflow has it.

Of the standard library alone: it serves the tests that run where there is no Dagster.
"""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import Any


@dataclass
class Script:
    """Answers GraphQL by the name of the document; each run goes through its statuses.

    `launches` says what comes of each launch in turn: "made" (the default), "lost" (made, and the
    connection is closed without a reply), "dropped" (not made, and closed) or an answer.
    """

    address: str = ""
    statuses: list[list[str]] = field(default_factory=lambda: [["STARTED", "SUCCESS"]])
    launches: list[Any] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)
    node: dict[str, Any] = field(default_factory=dict)
    windows: list[dict[str, str]] = field(default_factory=list)
    loading: int = 0
    """For so many looks at the code locations there is one that is not loaded."""
    runs: list[dict[str, Any]] = field(default_factory=list)
    asked: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)
    code: int = 200

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.asked]

    def answer(self, name: str, told: dict[str, Any]) -> Any:
        """The data of an answer; None closes the connection."""
        self.asked.append((name, told))
        return getattr(self, f"_{name}")(told)

    def _Version(self, told: dict[str, Any]) -> Any:  # noqa: N802 - the document's name
        return {"version": "1.13.27"}

    def _Assets(self, told: dict[str, Any]) -> Any:  # noqa: N802
        home = {"name": "__repository__", "location": {"name": "there"}}
        node = {"isMaterializable": True, "isPartitioned": False, "partitionDefinition": None}
        return {
            "assetNodes": [
                {"assetKey": key, "repository": home, **node, **self.node} for key in told["keys"]
            ]
        }

    def _Locations(self, told: dict[str, Any]) -> Any:  # noqa: N802
        entry = {"name": "there", "loadStatus": "LOADED"}
        kind = "PythonError" if self.loading else "RepositoryLocation"
        self.loading = max(0, self.loading - 1)
        self.node = self.node if self.loading else {}
        listed = [{**entry, "locationOrLoadError": {"__typename": kind}}]
        return {"workspaceOrError": {"__typename": "Workspace", "locationEntries": listed}}

    def _PartitionKeys(self, told: dict[str, Any]) -> Any:  # noqa: N802
        return {"assetNodes": [{"partitionKeys": ["red", "green"]} for _ in told["keys"]]}

    def _Windows(self, told: dict[str, Any]) -> Any:  # noqa: N802
        return {"assetBackfillPreview": [{"partitions": {"ranges": self.windows}}]}

    def _Launch(self, told: dict[str, Any]) -> Any:  # noqa: N802
        what = self.launches.pop(0) if self.launches else "made"
        if what == "dropped":
            return None
        if isinstance(what, dict):
            return {"launchPipelineExecution": what}
        left = self.statuses.pop(0) if len(self.statuses) > 1 else list(self.statuses[0])
        tags = {tag["key"]: tag["value"] for tag in told["params"]["executionMetadata"]["tags"]}
        run = {"runId": f"run-{len(self.runs) + 1}", "left": left, "tags": tags}
        self.runs.append({**run, "creationTime": time.time()})
        if what == "lost":
            return None
        return {
            "launchPipelineExecution": {"__typename": "LaunchRunSuccess", "run": self._told(-1)}
        }

    def _Find(self, told: dict[str, Any]) -> Any:  # noqa: N802
        wanted = {(tag["key"], tag["value"]) for tag in told["filter"]["tags"]}
        found = [n for n, run in enumerate(self.runs) if wanted <= set(run["tags"].items())]
        return {"runsOrError": {"__typename": "Runs", "results": [self._told(n) for n in found]}}

    def _Status(self, told: dict[str, Any]) -> Any:  # noqa: N802
        (place,) = [n for n, run in enumerate(self.runs) if run["runId"] == told["id"]]
        left = self.runs[place]["left"]
        if len(left) > 1:
            left.pop(0)
        return {"runOrError": {"__typename": "Run", **self._told(place)}}

    def _Events(self, told: dict[str, Any]) -> Any:  # noqa: N802
        page = {"cursor": "x", "hasMore": False, "events": self.events}
        return {"runOrError": {"__typename": "Run", "eventConnection": page}}

    def _Terminate(self, told: dict[str, Any]) -> Any:  # noqa: N802
        (run,) = [run for run in self.runs if run["runId"] == told["id"]]
        run["left"] = ["CANCELED"]
        return {"terminateRun": {"__typename": "TerminateRunSuccess"}}

    def _Latest(self, told: dict[str, Any]) -> Any:  # noqa: N802
        made = [{"timestamp": "1700000000000", "runId": "x", "partition": None}]
        return {"assetNodeOrError": {"__typename": "AssetNode", "assetMaterializations": made}}

    def _told(self, place: int) -> dict[str, Any]:
        run = self.runs[place]
        shown = {"runId": run["runId"], "status": run["left"][0]}
        return {**shown, "creationTime": run["creationTime"]}


@contextmanager
def answering() -> Iterator[Script]:
    """A script that is asked at its address."""
    script = Script()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            name = body["query"].split("Tidemill", 1)[1].split("(")[0].split()[0]
            script.headers = dict(self.headers)
            data = script.answer(name, body["variables"])
            if data is None:
                self.close_connection = True
                return
            told = json.dumps({"data": data}).encode()
            self.send_response(script.code)
            self.send_header("Content-Length", str(len(told)))
            self.end_headers()
            self.wfile.write(told)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    serving = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    serving.start()
    script.address = f"http://127.0.0.1:{server.server_port}"
    try:
        yield script
    finally:
        server.shutdown()
        serving.join()
        server.server_close()


def connection(address: str, **more: Any) -> str:
    """Airflow's JSON of a connection to this address."""
    scheme, rest = address.split("://")
    host, port = rest.rsplit(":", 1)
    told = {"conn_type": "dagster", "schema": scheme, "host": host, "port": int(port)}
    return json.dumps({**told, **more})


@dataclass
class Try:
    """One try of a task as its operator sees it; `store` and `xcoms` outlive it, as in Airflow."""

    store: dict[str, Any] = field(default_factory=dict)
    xcoms: dict[str, Any] = field(default_factory=dict)
    number: int = 1
    max_tries: int = 2
    extras: dict[str, Any] = field(default_factory=dict)

    def context(self, retries: int = 2) -> Any:
        def push(key: str, value: Any) -> None:
            self.xcoms[key] = value

        ti = SimpleNamespace(
            dag_id="dag", run_id="run", task_id="task", map_index=-1, try_number=self.number,
            max_tries=self.max_tries, task=SimpleNamespace(retries=retries), xcom_push=push,
        )  # fmt: skip
        events = {"outlet": SimpleNamespace(extra=self.extras)}
        store = SimpleNamespace(get=self.store.get, set=self.store.__setitem__)
        return {"ti": ti, "task_state_store": store, "outlet_events": events}
