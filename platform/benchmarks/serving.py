"""How fast the prediction server answers, and what a swap costs those who ask meanwhile.

    .venv/bin/python platform/benchmarks/serving.py [--quick] [--home FOLDER]

The packaged flights model learns from real days; its bundle with the most trees is served by
tidemill, by `mlflow models serve` (MLflow's LightGBM flavor) and by a bare application (`bare.py`)
as RSGI under Granian and as ASGI under uvicorn, one worker each, on one machine. All must give the
same answers to real rows first.

* Requests a second: `wrk` (Debian), 16 connections that stay open, one row a request. Each round
  asks each server for a second, in turn; judged is the median over the rounds of the ratio within
  a round, to the bare application that is faster in the median. `client_cores` is the most of a
  core that the client took: well under one, it limits nobody. `…_cpu_us` is the CPU that a server
  spends on a request, which others on the machine change little; it is told and not judged.
* Swaps: 200 requests a second by the client of the demo, a process of its own, one row each, while
  every second another of the line's models is put into service by an entry of the ledger. Judged
  are the 99th percentile of the requests under way in a swap (from its ledger entry to 100 ms
  after the first answer by the new model) over that of the others, and the time from the entry to
  the end of that first answer.
"""

import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import cycle
from math import isclose
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import msgspec
from flights_year import MODEL, Year, settings_in, through_the_steps
from harness import Figure, Goal, arguments, finish, say
from rivals import Target, bare_asgi, bare_rsgi, mlflow

from tidemill.core.bundle import Model
from tidemill.core.errors import PrerequisiteMissing
from tidemill.core.ledger import Chain, Entry
from tidemill.cycle.context import ModelContext
from tidemill.cycle.deploy import append_entry
from tidemill.demo import processes
from tidemill.demo.traffic import summarize_traffic

CONNECTIONS, REQUESTS_PER_SECOND, ROWS = 16, 200, 500
GOALS = (
    Goal("over_mlflow", at_least=50),
    Goal("over_bare", at_least=0.8),
    Goal("p99_in_swaps_over_without", at_most=1.5),
    Goal("first_answer_ms", at_most=200),
    Goal("bundle_mb", at_most=1),
    Goal("failed", at_most=0),
)
_WRK_SCRIPT = """
local bodies, asked, at = {%s}, {}, 0
function init()
  local head = {["content-type"] = "application/json"}
  for i, body in ipairs(bodies) do asked[i] = wrk.format("POST", nil, head, body) end
end
function request()
  at = at %% #asked + 1
  return asked[at]
end
function done(summary, latency)
  local e = summary.errors
  io.write(string.format('\\n{"requests": %%d, "us": %%d, "p99_us": %%d, "failed": %%d}',
    summary.requests, summary.duration, latency:percentile(99),
    e.connect + e.read + e.write + e.status + e.timeout))
end
"""


class LoadResult(msgspec.Struct, frozen=True):
    """What `wrk` tells of a round."""

    requests: int
    us: int
    p99_us: int
    failed: int
    cpu_us: float = 0.0

    @property
    def rate(self) -> float:
        """Requests a second."""
        return self.requests / self.us * 1e6


@dataclass
class LoadTest:
    """Rounds of load on several servers, and the most of a core that the client took."""

    folder: Path
    wrk: str
    rounds: list[dict[str, LoadResult]] = field(default_factory=list)
    client_cores: float = 0.0

    def run_round(self, targets: Sequence[Target]) -> None:
        """Ask each server at its limit, in another order than the last time."""
        offset = len(self.rounds) % len(targets)
        results = {
            target.name: self._run_wrk(target) for target in (*targets[offset:], *targets[:offset])
        }
        self.rounds.append(results)
        if offset == 0:
            say(", ".join(f"{name} {load.rate:,.0f}/s" for name, load in sorted(results.items())))

    def _run_wrk(self, target: Target) -> LoadResult:
        script = self.folder / f"{target.name}.lua"
        bodies = ",\n".join(f"[=[{body.decode()}]=]" for body in target.bodies)
        script.write_text(_WRK_SCRIPT % bodies)
        command = (self.wrk, "-t1", f"-c{CONNECTIONS}", "-d1s", "-s", str(script))
        client_cpu, server_cpu = _children_cpu_seconds(), target.cpu()
        completed = subprocess.run(
            (*command, target.url), capture_output=True, text=True, check=True
        )
        client_cpu, server_cpu = _children_cpu_seconds() - client_cpu, target.cpu() - server_cpu
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
        faster = max(("bare_rsgi", "bare_asgi"), key=lambda name: figures[f"{name}_per_second"])
        for name, baseline in (("mlflow", "mlflow"), ("bare", faster)):
            ratios = [results["tidemill"].rate / results[baseline].rate for results in self.rounds]
            figures[f"over_{name}"] = median(ratios)
        figures["load_failed"] = sum(
            load.failed for results in self.rounds for load in results.values()
        )
        return {**figures, "faster_bare": faster}


def main() -> int:
    parser = arguments(__doc__)
    parser.add_argument("--home", type=Path, help="keep the model, Kafka and logs in this folder")
    args = parser.parse_args()
    wrk = shutil.which("wrk")
    if wrk is None:
        raise PrerequisiteMissing("There is no wrk on this machine.", "Run `make tools`.")
    with TemporaryDirectory(prefix="tidemill-serving-") as scratch:
        home = (args.home or Path(scratch)).absolute()
        with through_the_steps(home, "2013-02-02" if args.quick else "2013-02-06") as year:
            load_test = LoadTest(home, wrk)
            rounds, swaps = (1, 3) if args.quick else (20, 60)
            figures = _measure(home, year, load_test, rounds, swaps)
    return finish("serving", figures, GOALS, args.quick)


def _measure(
    home: Path, year: Year, load_test: LoadTest, rounds: int, swaps: int
) -> dict[str, Figure]:
    ctx, settings = year.mill, settings_in(home)
    digests = [day.candidate.digest for day in year.days]
    model = max((ctx.load(digest) for digest in digests), key=lambda candidate: candidate.trees)
    bundle = ctx.archive.bundle(model.digest)
    rows = processes.sample_rows(ctx, ROWS)
    bodies = [b'{"rows": [%b]}' % row for row in rows]
    with (
        processes.prediction_server(settings, MODEL) as server,
        bare_rsgi(home, bundle, bodies) as rsgi,
        bare_asgi(home, bundle, bodies) as asgi,
        mlflow(home, model, rows) as ml,
    ):
        assert server.wait_for_version(_deploy(ctx, model.digest))
        url = f"{server.url}/models/{MODEL}/predict"
        target = Target("tidemill", url, bodies, server.process)
        _assert_same_predictions(model, rows, (target, rsgi, asgi, ml))
        say(f"{model.trees} trees: all servers give the same answers")
        for _ in range(rounds):
            load_test.run_round((target, rsgi, asgi, ml))
        swap_figures = _measure_swaps(
            ctx, settings.kafka.ledger_topic, server, rows, digests, swaps
        )
    size = {"trees": model.trees, "bundle_mb": len(bundle) / 1e6}
    return load_test.figures() | swap_figures | size


def _assert_same_predictions(
    model: Model, rows: Sequence[bytes], targets: Sequence[Target]
) -> None:
    """See that every server gives the model's own answers."""
    expected = model.predict(model.decoder().rows(rows)).tolist()
    for target in targets:
        for number in range(0, len(rows), 10):
            prediction = target.ask(target.bodies[number])
            assert isclose(prediction, expected[number], rel_tol=1e-9), (
                target.name,
                number,
                prediction,
            )


def _measure_swaps(
    ctx: ModelContext,
    topic: str,
    server: processes.ServerProcess,
    rows: Sequence[bytes],
    digests: Sequence[str],
    count: int,
) -> dict[str, Figure]:
    """Another model every second, under steady requests."""
    with processes.running_load_client(server, rows, REQUESTS_PER_SECOND) as client:
        time.sleep(2)
        for _, digest in zip(range(count), cycle(digests), strict=False):
            version = _deploy(ctx, digest)
            time.sleep(1)
            assert server.wait_for_version(version)
    summary = summarize_traffic(client.responses, processes.ledger_appends(ctx, topic))
    for fault in summary.errors:
        say(fault)
    assert summary.during_swaps.p99_ms is not None
    assert summary.between_swaps.p99_ms is not None
    return {
        "requests": summary.requests,
        "failed": summary.failed,
        "swaps": summary.swaps,
        "in_swaps_requests": summary.during_swaps.requests,
        "in_swaps_p50_ms": summary.during_swaps.p50_ms,
        "in_swaps_p99_ms": summary.during_swaps.p99_ms,
        "without_p50_ms": summary.between_swaps.p50_ms,
        "without_p99_ms": summary.between_swaps.p99_ms,
        "p99_in_swaps_over_without": summary.during_swaps.p99_ms / summary.between_swaps.p99_ms,
        "first_answer_ms": median(summary.first_response_ms),
        "first_answer_most_ms": max(summary.first_response_ms),
    }


def _deploy(ctx: ModelContext, digest: str) -> int:
    """Put this model into service by an entry of a person's; its version."""

    def entry(chain: Chain) -> Entry:
        seq, prev = chain.next_position
        return Entry(
            ctx.model, seq, "approve", digest, None, None, None, None, "benchmark", "a swap", prev
        )

    appended = append_entry(ctx, entry)
    assert appended is not None
    return appended.seq


def _children_cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    sys.exit(main())
