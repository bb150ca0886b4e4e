"""The client that asks while models change, against a real server."""

import itertools
import json
import subprocess
import sys
import time
from collections.abc import Mapping
from typing import Any

import msgspec

from prediction_server import ROW, PredictionServer
from tidemill.demo.traffic import RequestResult


def run_client(
    server: PredictionServer, row: Mapping[str, Any], duration: float, **options: Any
) -> list[RequestResult]:
    """What a client in a process of its own says after so many seconds."""
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


def test_it_asks_at_its_rate_and_keeps_who_answered_and_when(server: PredictionServer) -> None:
    answers = run_client(server, ROW, 2)
    served = server.model_status()
    assert {(a.version, a.digest, a.error) for a in answers} == {
        (served["version"], served["digest"], None)
    }
    apart = [after.sent_at - before.sent_at for before, after in itertools.pairwise(answers)]
    assert 0.018 < sorted(apart)[len(apart) // 2] < 0.03
    assert all(0 < a.duration_seconds < 5 for a in answers)


def test_it_asks_even_if_its_input_ends_at_once(server: PredictionServer) -> None:
    assert len(run_client(server, ROW, 0)) == 10


def test_an_answer_that_is_an_error_is_kept_as_a_fault(server: PredictionServer) -> None:
    answers = run_client(server, {"country": "de"}, 0)
    assert all(a.error is not None and a.error.startswith("400: ") for a in answers)
    assert all(a.version is None for a in answers)
