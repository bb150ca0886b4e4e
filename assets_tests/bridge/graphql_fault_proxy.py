"""A proxy between Airflow and Dagster that can kill the client or lose responses."""

import json
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import psutil
import requests


@dataclass
class GraphqlFaultProxy:
    """Forwards GraphQL to Dagster and injects the fault in `faults` once per DAG.

    `before`, `after` and `polling` kill the client: before the launch is forwarded, before its
    response is forwarded, or at the second poll of the run. `lost` closes the connection instead of
    forwarding the launch's response.
    """

    upstream_url: str
    address: str = ""
    faults: dict[str, str] = field(default_factory=dict)
    injected: list[tuple[str, str]] = field(default_factory=list)
    poll_counts: dict[str, int] = field(default_factory=dict)
    dag_by_run_id: dict[str, str] = field(default_factory=dict)

    def take_fault(self, dag: str, *kinds: str) -> str | None:
        """The fault to inject for this DAG now, if it is of these kinds and not injected yet."""
        fault = self.faults.get(dag)
        if fault is None or fault not in kinds or (dag, fault) in self.injected:
            return None
        self.injected.append((dag, fault))
        return fault


def _dag_id(variables: dict[str, object]) -> str:
    tags = variables["params"]["executionMetadata"]["tags"]  # type: ignore[index]
    return str(next(tag["value"] for tag in tags if tag["key"] == "airflow/dag_id"))


def _kill_client(port: int) -> None:
    """Send SIGKILL to the process that uses this port of the loopback interface."""
    for connection in psutil.net_connections("tcp"):
        if (
            connection.laddr
            and connection.laddr.port == port
            and connection.pid not in (None, os.getpid())
        ):
            os.kill(connection.pid, signal.SIGKILL)


@contextmanager
def graphql_proxy(upstream_url: str) -> Iterator[GraphqlFaultProxy]:
    """A proxy in front of this Dagster."""
    proxy = GraphqlFaultProxy(upstream_url)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            text = self.rfile.read(int(self.headers["Content-Length"]))
            body = json.loads(text)
            is_launch, is_poll = (
                "TidemillLaunch" in body["query"],
                "TidemillStatus" in body["query"],
            )
            dag = _dag_id(body["variables"]) if is_launch else ""
            if is_launch and proxy.take_fault(dag, "before"):
                return self._kill_client_and_close()
            if is_poll:
                dag = proxy.dag_by_run_id.get(body["variables"]["id"], "")
                proxy.poll_counts[dag] = proxy.poll_counts.get(dag, 0) + 1
                if proxy.poll_counts[dag] == 2 and proxy.take_fault(dag, "polling"):
                    return self._kill_client_and_close()
            try:
                response = requests.post(f"{proxy.upstream_url}/graphql", data=text, timeout=60,
                                     headers={"Content-Type": "application/json"})  # fmt: skip
            except requests.RequestException:
                self.close_connection = True
                return None
            if is_launch:
                launch_result = (response.json()["data"] or {}).get("launchPipelineExecution", {})
                proxy.dag_by_run_id[launch_result.get("run", {}).get("runId", "")] = dag
                if proxy.take_fault(dag, "after"):
                    return self._kill_client_and_close()
                if proxy.take_fault(dag, "lost"):
                    self.close_connection = True
                    return None
            self.send_response(response.status_code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(response.content)))
            self.end_headers()
            self.wfile.write(response.content)
            return None

        def _kill_client_and_close(self) -> None:
            _kill_client(self.client_address[1])
            self.close_connection = True

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    serving = threading.Thread(target=server.serve_forever)
    serving.start()
    proxy.address = f"http://127.0.0.1:{server.server_port}"
    try:
        yield proxy
    finally:
        server.shutdown()
        serving.join()
        server.server_close()
