"""What ten thousand idle connections and two hundred slow ones cost a healthy client.

    .venv/bin/python platform/benchmarks/serving_attacked.py [--quick]

The packaged flights model is served by one worker of tidemill. A client asks for one row, 200 times
a second, in turns: by itself, while another process holds the connections, by itself again, …
Half of the slow ones drip a head and half of them a body, a byte each half second, and begin again
whenever they are thrown out. Judged is the 99th percentile of the requests under attack over that
of the others, all turns together; every request must be answered.
"""

import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil
from flights_year import MODEL, settings_in, through_the_steps
from harness import Figure, Goal, arguments, finish, say

# The attackers are those of the tests.
sys.path.insert(0, str(Path(__file__).parents[2] / "assets_tests" / "support"))

from attacks import attacked
from tidemill.demo import processes
from tidemill.demo.traffic import RequestResult, TrafficSummary, summarize_traffic

IDLE, SLOW, REQUESTS_PER_SECOND, ROWS = 10_000, 200, 200, 500
GOALS = (Goal("p99_attacked_over_without", at_most=2), Goal("failed", at_most=0))


def main() -> int:
    args = arguments(__doc__).parse_args()
    idle, slow, rounds, seconds = (200, 20, 1, 2) if args.quick else (IDLE, SLOW, 3, 12)
    with TemporaryDirectory(prefix="tidemill-attacked-") as scratch:
        home = Path(scratch)
        with through_the_steps(home, "2013-02-02") as year:
            rows, settings = processes.sample_rows(year.mill, ROWS), settings_in(home)
            ledger = processes.ledger_appends(year.mill, settings.kafka.ledger_topic)
            with processes.prediction_server(settings, MODEL) as server:
                assert server.wait_for_version(max(ledger))
                process = psutil.Process(server.process.pid)
                memory_before, peak_memory = process.memory_info().rss, 0
                quiet, under_attack = list[RequestResult](), list[RequestResult]()
                for number in range(rounds):
                    quiet += _run_client(server, rows, seconds)
                    with attacked(server.url, f"/models/{MODEL}/predict", idle, slow):
                        under_attack += _run_client(server, rows, seconds)
                        peak_memory = max(peak_memory, process.memory_info().rss)
                    say(f"turn {number + 1} of {rounds}")
                quiet += _run_client(server, rows, seconds)
    figures = _figures(summarize_traffic(quiet, ledger), summarize_traffic(under_attack, ledger))
    attack_figures = {"idle": idle, "slow": slow, "attack_mb": (peak_memory - memory_before) / 1e6}
    return finish("serving_attacked", figures | attack_figures, GOALS, args.quick)


def _figures(quiet: TrafficSummary, under_attack: TrafficSummary) -> dict[str, Figure]:
    for fault in quiet.errors + under_attack.errors:
        say(fault)
    quiet_latency, attack_latency = quiet.between_swaps, under_attack.between_swaps
    assert quiet_latency.p99_ms is not None
    assert attack_latency.p99_ms is not None
    return {
        "requests": quiet.requests + under_attack.requests,
        "failed": quiet.failed + under_attack.failed,
        "without_p50_ms": quiet_latency.p50_ms,
        "without_p99_ms": quiet_latency.p99_ms,
        "attacked_p50_ms": attack_latency.p50_ms,
        "attacked_p99_ms": attack_latency.p99_ms,
        "p99_attacked_over_without": attack_latency.p99_ms / quiet_latency.p99_ms,
    }


def _run_client(
    server: processes.ServerProcess, rows: list[bytes], seconds: float
) -> list[RequestResult]:
    with processes.running_load_client(server, rows, REQUESTS_PER_SECOND) as client:
        time.sleep(seconds)
    return client.responses


if __name__ == "__main__":
    sys.exit(main())
