"""A proxy between Airflow and Dagster that can kill who asks, or lose what is answered."""

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
class Between:
    """`plans` says by DAG what is done once: `before`, `after` and `polling` kill the asker (before
    the launch is passed on, before its reply is, at the second look at the run); `lost` closes the
    connection in place of the launch's reply.
    """

    dagster: str
    address: str = ""
    plans: dict[str, str] = field(default_factory=dict)
    done: list[tuple[str, str]] = field(default_factory=list)
    looks: dict[str, int] = field(default_factory=dict)
    dag_of: dict[str, str] = field(default_factory=dict)

    def due(self, dag: str, *plans: str) -> str | None:
        """What is to be done to this DAG now, if it is one of these; it is done once."""
        plan = self.plans.get(dag)
        if plan is None or plan not in plans or (dag, plan) in self.done:
            return None
        self.done.append((dag, plan))
        return plan


def _dag(variables: dict[str, object]) -> str:
    tags = variables["params"]["executionMetadata"]["tags"]  # type: ignore[index]
    return str(next(tag["value"] for tag in tags if tag["key"] == "airflow/dag_id"))


def _kill_asker(port: int) -> None:
    """Kill -9 the process that holds this port of the loopback."""
    for held in psutil.net_connections("tcp"):
        if held.laddr and held.laddr.port == port and held.pid not in (None, os.getpid()):
            os.kill(held.pid, signal.SIGKILL)


@contextmanager
def between(dagster: str) -> Iterator[Between]:
    """A proxy in front of this Dagster."""
    proxy = Between(dagster)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            text = self.rfile.read(int(self.headers["Content-Length"]))
            body = json.loads(text)
            launch, look = "TidemillLaunch" in body["query"], "TidemillStatus" in body["query"]
            dag = _dag(body["variables"]) if launch else ""
            if launch and proxy.due(dag, "before"):
                return self._killed()
            if look:
                dag = proxy.dag_of.get(body["variables"]["id"], "")
                proxy.looks[dag] = proxy.looks.get(dag, 0) + 1
                if proxy.looks[dag] == 2 and proxy.due(dag, "polling"):
                    return self._killed()
            try:
                told = requests.post(f"{proxy.dagster}/graphql", data=text, timeout=60,
                                     headers={"Content-Type": "application/json"})  # fmt: skip
            except requests.RequestException:
                self.close_connection = True
                return None
            if launch:
                made = (told.json()["data"] or {}).get("launchPipelineExecution", {})
                proxy.dag_of[made.get("run", {}).get("runId", "")] = dag
                if proxy.due(dag, "after"):
                    return self._killed()
                if proxy.due(dag, "lost"):
                    self.close_connection = True
                    return None
            self.send_response(told.status_code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(told.content)))
            self.end_headers()
            self.wfile.write(told.content)
            return None

        def _killed(self) -> None:
            _kill_asker(self.client_address[1])
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
