"""The effect of ten thousand idle and two hundred slow connections on a healthy client.

    .venv/bin/python platform/benchmarks/serving_attacked.py [--quick]

One worker of tidemill serves the packaged flights model. A client requests predictions for one row,
200 times per second, alternately alone and while another process holds the connections. Half of the
slow ones send a head and half of them a body, one byte every half second, and reconnect whenever
they are disconnected. Judged is the 99th percentile of the requests under attack divided by that of
the others, over all rounds; every request must succeed.
"""

import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil
from flights_year import MODEL, benchmark_settings, run_year
from harness import Figure, Goal, argument_parser, log, report_results

# The attackers are part of the test support.
sys.path.insert(0, str(Path(__file__).parents[2] / "assets_tests"))

from support.serving.attacks import attacking_clients
from tidemill.demo import processes
from tidemill.demo.traffic import RequestResult, TrafficSummary, summarize_traffic

IDLE, SLOW, REQUESTS_PER_SECOND, ROWS = 10_000, 200, 200, 500
GOALS = (Goal("p99_attacked_over_without", at_most=2), Goal("failed", at_most=0))


def main() -> int:
    args = argument_parser(__doc__).parse_args()
    idle, slow, rounds, seconds = (200, 20, 1, 2) if args.quick else (IDLE, SLOW, 3, 12)
    with TemporaryDirectory(prefix="tidemill-attacked-") as scratch:
        home = Path(scratch)
        with run_year(home, "2013-02-02") as year:
            rows, settings = processes.sample_rows(year.ctx, ROWS), benchmark_settings(home)
            ledger = processes.ledger_appends(year.ctx, settings.kafka.ledger_topic)
            with processes.prediction_server(settings, MODEL) as server:
                assert server.wait_for_version(max(ledger))
                process = psutil.Process(server.process.pid)
                memory_before, peak_memory = process.memory_info().rss, 0
                quiet, under_attack = list[RequestResult](), list[RequestResult]()
                for number in range(rounds):
                    quiet += _run_client(server, rows, seconds)
                    with attacking_clients(server.url, f"/models/{MODEL}/predict", idle, slow):
                        under_attack += _run_client(server, rows, seconds)
                        peak_memory = max(peak_memory, process.memory_info().rss)
                    log(f"round {number + 1} of {rounds}")
                quiet += _run_client(server, rows, seconds)
    figures = _figures(summarize_traffic(quiet, ledger), summarize_traffic(under_attack, ledger))
    attack_figures = {"idle": idle, "slow": slow, "attack_mb": (peak_memory - memory_before) / 1e6}
    return report_results("serving_attacked", figures | attack_figures, GOALS, args.quick)


def _figures(quiet: TrafficSummary, under_attack: TrafficSummary) -> dict[str, Figure]:
    for error in quiet.errors + under_attack.errors:
        log(error)
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
