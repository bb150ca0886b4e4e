"""A proxy between Airflow and Dagster that can kill the client or lose responses."""

import json
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler

import psutil
import requests

from support.servers.http import running_http_server, send_response


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


def _kill_client(request: BaseHTTPRequestHandler) -> None:
    """Send SIGKILL to the process that sent this request, and close the connection."""
    port = request.client_address[1]
    for connection in psutil.net_connections("tcp"):
        if (
            connection.laddr
            and connection.laddr.port == port
            and connection.pid not in (None, os.getpid())
        ):
            os.kill(connection.pid, signal.SIGKILL)
    request.close_connection = True


@contextmanager
def graphql_proxy(upstream_url: str) -> Iterator[GraphqlFaultProxy]:
    """A proxy in front of this Dagster."""
    proxy = GraphqlFaultProxy(upstream_url)

    def respond(request: BaseHTTPRequestHandler, text: bytes) -> None:
        body = json.loads(text)
        is_launch, is_poll = "TidemillLaunch" in body["query"], "TidemillStatus" in body["query"]
        dag = _dag_id(body["variables"]) if is_launch else ""
        if is_launch and proxy.take_fault(dag, "before"):
            return _kill_client(request)
        if is_poll:
            dag = proxy.dag_by_run_id.get(body["variables"]["id"], "")
            proxy.poll_counts[dag] = proxy.poll_counts.get(dag, 0) + 1
            if proxy.poll_counts[dag] == 2 and proxy.take_fault(dag, "polling"):
                return _kill_client(request)
        headers = {"Content-Type": "application/json"}
        url = f"{proxy.upstream_url}/graphql"
        try:
            response = requests.post(url, data=text, timeout=60, headers=headers)
        except requests.RequestException:
            request.close_connection = True
            return None
        if is_launch:
            launch_result = (response.json()["data"] or {}).get("launchPipelineExecution", {})
            proxy.dag_by_run_id[launch_result.get("run", {}).get("runId", "")] = dag
            if proxy.take_fault(dag, "after"):
                return _kill_client(request)
            if proxy.take_fault(dag, "lost"):
                request.close_connection = True
                return None
        return send_response(request, response.status_code, response.content, **headers)

    with running_http_server(respond) as proxy.address:
        yield proxy
