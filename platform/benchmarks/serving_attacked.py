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
from tidemill.cli import beside
from tidemill.serving.answers import RequestResult, TrafficSummary, summarize_traffic

IDLE, SLOW, RATE, ROWS = 10_000, 200, 200, 500
GOALS = (Goal("p99_attacked_over_without", at_most=2), Goal("failed", at_most=0))


def main() -> int:
    told = arguments(__doc__).parse_args()
    idle, slow, turns, seconds = (200, 20, 1, 2) if told.quick else (IDLE, SLOW, 3, 12)
    with TemporaryDirectory(prefix="tidemill-attacked-") as scratch:
        home = Path(scratch)
        with through_the_steps(home, "2013-02-02") as year:
            rows, settings = beside.sample_rows(year.mill, ROWS), settings_in(home)
            ledger = beside.ledger_appends(year.mill, settings.kafka.ledger_topic)
            with beside.prediction_server(settings, MODEL) as server:
                assert server.wait_for_version(max(ledger))
                process = psutil.Process(server.process.pid)
                before, most = process.memory_info().rss, 0
                quiet, under = list[RequestResult](), list[RequestResult]()
                for number in range(turns):
                    quiet += _asked(server, rows, seconds)
                    with attacked(server.url, f"/models/{MODEL}/predict", idle, slow):
                        under += _asked(server, rows, seconds)
                        most = max(most, process.memory_info().rss)
                    say(f"turn {number + 1} of {turns}")
                quiet += _asked(server, rows, seconds)
    figures = _figures(summarize_traffic(quiet, ledger), summarize_traffic(under, ledger))
    more = {"idle": idle, "slow": slow, "attack_mb": (most - before) / 1e6}
    return finish("serving_attacked", figures | more, GOALS, told.quick)


def _figures(quiet: TrafficSummary, under: TrafficSummary) -> dict[str, Figure]:
    for fault in quiet.errors + under.errors:
        say(fault)
    without, attacked = quiet.between_swaps, under.between_swaps
    assert without.p99_ms is not None
    assert attacked.p99_ms is not None
    return {
        "requests": quiet.requests + under.requests,
        "failed": quiet.failed + under.failed,
        "without_p50_ms": without.p50_ms,
        "without_p99_ms": without.p99_ms,
        "attacked_p50_ms": attacked.p50_ms,
        "attacked_p99_ms": attacked.p99_ms,
        "p99_attacked_over_without": attacked.p99_ms / without.p99_ms,
    }


def _asked(server: beside.ServerProcess, rows: list[bytes], seconds: float) -> list[RequestResult]:
    with beside.running_load_client(server, rows, RATE) as client:
        time.sleep(seconds)
    return client.responses


if __name__ == "__main__":
    sys.exit(main())
