"""The throughput of the prediction server, and the effect of a swap on concurrent requests.

    .venv/bin/python platform/benchmarks/serving.py [--quick] [--home FOLDER]

The packaged flights model learns from real days. Its bundle with the most trees is served by
tidemill, by `mlflow models serve` (MLflow's LightGBM flavor) and by a minimal application
(`baseline_app.py`) as RSGI under Granian and as ASGI under uvicorn, one worker each, on one
machine. First, all of them must return the same predictions for real rows.

* Requests per second: `wrk` (Debian), 16 persistent connections, one row per request. Each round
  loads each server for one second, one after the other. Judged is the median over the rounds of
  the ratio within a round, for the minimal application to the one that is faster in the median.
  `client_cores` is the client's largest CPU use, in cores: well below one, the client is not the
  limit. `…_cpu_us` is the server's CPU time per request, which other load on the machine hardly
  changes; it is reported, not judged.
* Swaps: 200 requests per second by the demo's client, in a separate process, one row each, while a
  ledger entry deploys another model of the lineage every second. Judged are the 99th percentile of
  the requests in progress during a swap (from its ledger entry to 100 ms after the first response
  by the new model) divided by that of the others, and the time from the entry to the end of that
  first response.
"""

import shutil
import sys
import time
from collections.abc import Sequence
from itertools import cycle
from math import isclose
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from baseline_servers import Target, baseline_asgi, baseline_rsgi, mlflow_server
from flights_year import MODEL, Year, benchmark_settings, run_year
from harness import Figure, Goal, argument_parser, log, report_results
from wrk_load import LoadTest

from tidemill.core.bundle import Model
from tidemill.core.errors import PrerequisiteMissing
from tidemill.core.ledger import Chain, Entry
from tidemill.cycle.context import ModelContext
from tidemill.cycle.ledger import append_entry
from tidemill.demo import processes
from tidemill.demo.traffic import summarize_traffic

REQUESTS_PER_SECOND, ROWS = 200, 500
GOALS = (
    Goal("over_mlflow", at_least=50),
    Goal("over_baseline", at_least=0.8),
    Goal("p99_in_swaps_over_without", at_most=1.5),
    Goal("first_answer_ms", at_most=200),
    Goal("bundle_mb", at_most=1),
    Goal("failed", at_most=0),
)


def main() -> int:
    parser = argument_parser(__doc__)
    parser.add_argument(
        "--home", type=Path, help="store the model, Kafka and the logs in this folder"
    )
    args = parser.parse_args()
    wrk = shutil.which("wrk")
    if wrk is None:
        raise PrerequisiteMissing("wrk is not installed.", "Run `make tools`.")
    with TemporaryDirectory(prefix="tidemill-serving-") as scratch:
        home = (args.home or Path(scratch)).absolute()
        with run_year(home, "2013-02-02" if args.quick else "2013-02-06") as year:
            load_test = LoadTest(home, wrk)
            rounds, swaps = (1, 3) if args.quick else (20, 60)
            figures = _measure(home, year, load_test, rounds, swaps)
    return report_results("serving", figures, GOALS, args.quick)


def _measure(
    home: Path, year: Year, load_test: LoadTest, rounds: int, swaps: int
) -> dict[str, Figure]:
    ctx, settings = year.ctx, benchmark_settings(home)
    digests = [day.candidate.digest for day in year.days]
    model = max(map(ctx.load, digests), key=lambda candidate: candidate.num_iterations)
    bundle = ctx.repository.bundle(model.digest)
    rows = processes.sample_rows(ctx, ROWS)
    bodies = [b'{"rows": [%b]}' % row for row in rows]
    with (
        processes.prediction_server(settings, MODEL) as server,
        baseline_rsgi(home, bundle, bodies) as rsgi,
        baseline_asgi(home, bundle, bodies) as asgi,
        mlflow_server(home, model, rows) as ml,
    ):
        assert server.wait_for_version(_deploy(ctx, model.digest))
        url = f"{server.url}/models/{MODEL}/predict"
        target = Target("tidemill", url, bodies, server.process)
        _assert_same_predictions(model, rows, (target, rsgi, asgi, ml))
        log(f"{model.num_iterations} trees: all servers return the same predictions")
        for _ in range(rounds):
            load_test.run_round((target, rsgi, asgi, ml))
        swap_figures = _measure_swaps(
            ctx, settings.kafka.ledger_topic, server, rows, digests, swaps
        )
    size = {"trees": model.num_iterations, "bundle_mb": len(bundle) / 1e6}
    return load_test.figures() | swap_figures | size


def _assert_same_predictions(
    model: Model, rows: Sequence[bytes], targets: Sequence[Target]
) -> None:
    """Assert that every server returns the model's own predictions."""
    expected = model.predict(model.decoder().rows(rows)).tolist()
    for target in targets:
        for number in range(0, len(rows), 10):
            prediction = target.predict(target.bodies[number])
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
    """Swap the model every second, under steady load."""
    with processes.running_load_client(server, rows, REQUESTS_PER_SECOND) as client:
        time.sleep(2)
        for _, digest in zip(range(count), cycle(digests), strict=False):
            version = _deploy(ctx, digest)
            time.sleep(1)
            assert server.wait_for_version(version)
    summary = summarize_traffic(client.responses, processes.ledger_appends(ctx, topic))
    for error in summary.errors:
        log(error)
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
    """Deploy this model by a manual ledger entry. Returns its version."""

    def entry(chain: Chain) -> Entry:
        seq, prev = chain.next_position
        return Entry(
            ctx.model, seq, "approve", digest, None, None, None, None, "benchmark", "swap", prev
        )

    appended = append_entry(ctx, entry)
    assert appended is not None
    return appended.seq


if __name__ == "__main__":
    sys.exit(main())
