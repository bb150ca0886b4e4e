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

from tidemill.cli import beside
from tidemill.core.bundle import Model
from tidemill.core.errors import PrerequisiteMissing
from tidemill.core.ledger import Chain, Entry
from tidemill.cycle.deploy import append_entry
from tidemill.cycle.mill import ModelContext
from tidemill.serving.answers import summarize_traffic

CONNECTIONS, RATE, ROWS = 16, 200, 500
GOALS = (
    Goal("over_mlflow", at_least=50),
    Goal("over_bare", at_least=0.8),
    Goal("p99_in_swaps_over_without", at_most=1.5),
    Goal("first_answer_ms", at_most=200),
    Goal("bundle_mb", at_most=1),
    Goal("failed", at_most=0),
)
_LUA = """
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


class Load(msgspec.Struct, frozen=True):
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
class Loads:
    """Rounds of load on several servers, and the most of a core that the client took."""

    folder: Path
    wrk: str
    rounds: list[dict[str, Load]] = field(default_factory=list)
    client_cores: float = 0.0

    def round(self, targets: Sequence[Target]) -> None:
        """Ask each server at its limit, in another order than the last time."""
        at = len(self.rounds) % len(targets)
        told = {each.name: self._ask(each) for each in (*targets[at:], *targets[:at])}
        self.rounds.append(told)
        if at == 0:
            say(", ".join(f"{name} {load.rate:,.0f}/s" for name, load in sorted(told.items())))

    def _ask(self, target: Target) -> Load:
        script = self.folder / f"{target.name}.lua"
        bodies = ",\n".join(f"[=[{body.decode()}]=]" for body in target.bodies)
        script.write_text(_LUA % bodies)
        words = (self.wrk, "-t1", f"-c{CONNECTIONS}", "-d1s", "-s", str(script))
        ours, theirs = _cpu_of_children(), target.cpu()
        done = subprocess.run((*words, target.url), capture_output=True, text=True, check=True)
        ours, theirs = _cpu_of_children() - ours, target.cpu() - theirs
        told = msgspec.json.decode(done.stdout.splitlines()[-1], type=Load)
        self.client_cores = max(self.client_cores, ours / told.us * 1e6)
        return msgspec.structs.replace(told, cpu_us=theirs / told.requests * 1e6)

    def figures(self) -> dict[str, Figure]:
        """Medians over the rounds."""
        told: dict[str, float] = {"client_cores": self.client_cores}
        for name in self.rounds[0]:
            told[f"{name}_per_second"] = median(each[name].rate for each in self.rounds)
            told[f"{name}_cpu_us"] = median(each[name].cpu_us for each in self.rounds)
            told[f"{name}_p99_ms"] = median(each[name].p99_us / 1000 for each in self.rounds)
        faster = max(("bare_rsgi", "bare_asgi"), key=lambda name: told[f"{name}_per_second"])
        for name, rival in (("mlflow", "mlflow"), ("bare", faster)):
            ratios = [each["tidemill"].rate / each[rival].rate for each in self.rounds]
            told[f"over_{name}"] = median(ratios)
        told["load_failed"] = sum(load.failed for each in self.rounds for load in each.values())
        return {**told, "faster_bare": faster}


def main() -> int:
    parser = arguments(__doc__)
    parser.add_argument("--home", type=Path, help="keep the model, Kafka and logs in this folder")
    told = parser.parse_args()
    wrk = shutil.which("wrk")
    if wrk is None:
        raise PrerequisiteMissing("There is no wrk on this machine.", "Run `make tools`.")
    with TemporaryDirectory(prefix="tidemill-serving-") as scratch:
        home = (told.home or Path(scratch)).absolute()
        with through_the_steps(home, "2013-02-02" if told.quick else "2013-02-06") as year:
            loads = Loads(home, wrk)
            rounds, swaps = (1, 3) if told.quick else (20, 60)
            figures = _measured(home, year, loads, rounds, swaps)
    return finish("serving", figures, GOALS, told.quick)


def _measured(home: Path, year: Year, loads: Loads, rounds: int, swaps: int) -> dict[str, Figure]:
    mill, settings = year.mill, settings_in(home)
    digests = [day.candidate.digest for day in year.days]
    model = max((mill.load(digest) for digest in digests), key=lambda each: each.trees)
    bundle = mill.archive.bundle(model.digest)
    rows = beside.sample_rows(mill, ROWS)
    bodies = [b'{"rows": [%b]}' % row for row in rows]
    with (
        beside.prediction_server(settings, MODEL) as server,
        bare_rsgi(home, bundle, bodies) as rsgi,
        bare_asgi(home, bundle, bodies) as asgi,
        mlflow(home, model, rows) as ml,
    ):
        assert server.wait_for_version(_deploy(mill, model.digest))
        address = f"{server.url}/models/{MODEL}/predict"
        ours = Target("tidemill", address, bodies, server.process)
        _agree(model, rows, (ours, rsgi, asgi, ml))
        say(f"{model.trees} trees: all servers give the same answers")
        for _ in range(rounds):
            loads.round((ours, rsgi, asgi, ml))
        swapped = _swaps(mill, settings.kafka.ledger_topic, server, rows, digests, swaps)
    size = {"trees": model.trees, "bundle_mb": len(bundle) / 1e6}
    return loads.figures() | swapped | size


def _agree(model: Model, rows: Sequence[bytes], targets: Sequence[Target]) -> None:
    """See that every server gives the model's own answers."""
    wanted = model.predict(model.decoder().rows(rows)).tolist()
    for target in targets:
        for number in range(0, len(rows), 10):
            told = target.ask(target.bodies[number])
            assert isclose(told, wanted[number], rel_tol=1e-9), (target.name, number, told)


def _swaps(
    mill: ModelContext,
    topic: str,
    server: beside.ServerProcess,
    rows: Sequence[bytes],
    digests: Sequence[str],
    count: int,
) -> dict[str, Figure]:
    """Another model every second, under steady requests."""
    with beside.running_load_client(server, rows, RATE) as client:
        time.sleep(2)
        for _, digest in zip(range(count), cycle(digests), strict=False):
            version = _deploy(mill, digest)
            time.sleep(1)
            assert server.wait_for_version(version)
    told = summarize_traffic(client.responses, beside.ledger_appends(mill, topic))
    for fault in told.errors:
        say(fault)
    assert told.during_swaps.p99_ms is not None
    assert told.between_swaps.p99_ms is not None
    return {
        "requests": told.requests,
        "failed": told.failed,
        "swaps": told.swaps,
        "in_swaps_requests": told.during_swaps.requests,
        "in_swaps_p50_ms": told.during_swaps.p50_ms,
        "in_swaps_p99_ms": told.during_swaps.p99_ms,
        "without_p50_ms": told.between_swaps.p50_ms,
        "without_p99_ms": told.between_swaps.p99_ms,
        "p99_in_swaps_over_without": told.during_swaps.p99_ms / told.between_swaps.p99_ms,
        "first_answer_ms": median(told.first_response_ms),
        "first_answer_most_ms": max(told.first_response_ms),
    }


def _deploy(mill: ModelContext, digest: str) -> int:
    """Put this model into service by an entry of a person's; its version."""

    def entry(chain: Chain) -> Entry:
        seq, prev = chain.next_position
        return Entry(
            mill.model, seq, "approve", digest, None, None, None, None, "benchmark", "a swap", prev
        )

    appended = append_entry(mill, entry)
    assert appended is not None
    return appended.seq


def _cpu_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    sys.exit(main())
