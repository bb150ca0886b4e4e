"""Rounds of load by `wrk` on several servers."""

import resource
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import msgspec
from baseline_servers import Target
from harness import Figure, log

CONNECTIONS = 16
_WRK_SCRIPT = """
local bodies, requests, index = {%s}, {}, 0
function init()
  local head = {["content-type"] = "application/json"}
  for i, body in ipairs(bodies) do requests[i] = wrk.format("POST", nil, head, body) end
end
function request()
  index = index %% #requests + 1
  return requests[index]
end
function done(summary, latency)
  local e = summary.errors
  io.write(string.format('\\n{"requests": %%d, "us": %%d, "p99_us": %%d, "failed": %%d}',
    summary.requests, summary.duration, latency:percentile(99),
    e.connect + e.read + e.write + e.status + e.timeout))
end
"""


class LoadResult(msgspec.Struct, frozen=True):
    """The output of `wrk` for one server and round."""

    requests: int
    us: int
    p99_us: int
    failed: int
    cpu_us: float = 0.0

    @property
    def rate(self) -> float:
        """Requests per second."""
        return self.requests / self.us * 1e6


@dataclass
class LoadTest:
    """Rounds of load on several servers, and the client's largest CPU use in cores."""

    folder: Path
    wrk: str
    rounds: list[dict[str, LoadResult]] = field(default_factory=list)
    client_cores: float = 0.0

    def run_round(self, targets: Sequence[Target]) -> None:
        """Load each server at its limit, in a different order each round."""
        offset = len(self.rounds) % len(targets)
        results = {
            target.name: self._run_wrk(target) for target in (*targets[offset:], *targets[:offset])
        }
        self.rounds.append(results)
        if offset == 0:
            log(", ".join(f"{name} {load.rate:,.0f}/s" for name, load in sorted(results.items())))

    def _run_wrk(self, target: Target) -> LoadResult:
        script = self.folder / f"{target.name}.lua"
        bodies = ",\n".join(f"[=[{body.decode()}]=]" for body in target.bodies)
        script.write_text(_WRK_SCRIPT % bodies)
        command = (self.wrk, "-t1", f"-c{CONNECTIONS}", "-d1s", "-s", str(script))
        client_cpu, server_cpu = _children_cpu_seconds(), target.cpu_seconds()
        completed = subprocess.run(
            (*command, target.url), capture_output=True, text=True, check=True
        )
        client_cpu = _children_cpu_seconds() - client_cpu
        server_cpu = target.cpu_seconds() - server_cpu
        result = msgspec.json.decode(completed.stdout.splitlines()[-1], type=LoadResult)
        self.client_cores = max(self.client_cores, client_cpu / result.us * 1e6)
        return msgspec.structs.replace(result, cpu_us=server_cpu / result.requests * 1e6)

    def figures(self) -> dict[str, Figure]:
        """Medians over the rounds."""
        figures: dict[str, float] = {"client_cores": self.client_cores}
        for name in self.rounds[0]:
            figures[f"{name}_per_second"] = median(results[name].rate for results in self.rounds)
            figures[f"{name}_cpu_us"] = median(results[name].cpu_us for results in self.rounds)
            figures[f"{name}_p99_ms"] = median(
                results[name].p99_us / 1000 for results in self.rounds
            )
        faster = max(
            ("baseline_rsgi", "baseline_asgi"), key=lambda name: figures[f"{name}_per_second"]
        )
        for name, baseline in (("mlflow", "mlflow"), ("baseline", faster)):
            ratios = [results["tidemill"].rate / results[baseline].rate for results in self.rounds]
            figures[f"over_{name}"] = median(ratios)
        figures["load_failed"] = sum(
            load.failed for results in self.rounds for load in results.values()
        )
        return {**figures, "faster_baseline": faster}


def _children_cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
