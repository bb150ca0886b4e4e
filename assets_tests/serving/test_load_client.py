"""The load client, against a real server."""

import itertools
import json
import subprocess
import sys
import time
from collections.abc import Mapping
from typing import Any

import msgspec

from support.serving.prediction_server import ROW, PredictionServer
from tidemill.demo.traffic import RequestResult


def run_client(
    server: PredictionServer, row: Mapping[str, Any], duration: float, **options: Any
) -> list[RequestResult]:
    """The results of a client process whose input ends after `duration` seconds."""
    load_spec = {
        "url": server.url,
        "model": server.harness.model,
        "rows": [row],
        "rate": 50,
        **options,
    }
    with subprocess.Popen(
        [sys.executable, "-m", "tidemill.demo.load_client"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdin is not None
        process.stdin.write(json.dumps(load_spec).encode() + b"\n")
        process.stdin.flush()
        time.sleep(duration)
        output, _ = process.communicate(timeout=60)
    return msgspec.json.decode(output, type=list[RequestResult])


def test_requests_are_sent_at_the_rate_and_results_name_the_model(server: PredictionServer) -> None:
    results = run_client(server, ROW, 2)
    served = server.model_status()
    assert {(result.version, result.digest, result.error) for result in results} == {
        (served["version"], served["digest"], None)
    }
    intervals = [after.sent_at - before.sent_at for before, after in itertools.pairwise(results)]
    assert 0.018 < sorted(intervals)[len(intervals) // 2] < 0.03
    assert all(0 < result.duration_seconds < 5 for result in results)


def test_the_final_requests_are_sent_even_if_the_input_ends_at_once(
    server: PredictionServer,
) -> None:
    assert len(run_client(server, ROW, 0)) == 10


def test_an_error_response_is_kept_as_an_error(server: PredictionServer) -> None:
    results = run_client(server, {"country": "de"}, 0)
    assert all(result.error is not None and result.error.startswith("400: ") for result in results)
    assert all(result.version is None for result in results)
