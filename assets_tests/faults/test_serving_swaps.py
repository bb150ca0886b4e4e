"""Thousands of model swaps under load: no request fails, each response matches its digest."""

import time
from dataclasses import dataclass

import psutil
import pytest

from faults.deployments import LedgerAppender, deploy_windows
from support.models import oracle
from support.models.harness import ModelHarness
from support.serving.load_generator import load_generator_for
from support.serving.prediction_server import PredictionServer, bundle_digests, running_server
from tidemill.cycle.ledger import read_chain

pytestmark = pytest.mark.faults

SWAPS, CLIENTS = 2_000, 64
WARMUP_SWAPS = 200
"""The swaps after which memory, files and threads may no longer grow."""


@dataclass(frozen=True)
class Footprint:
    """The resources of a server and its child processes: resident MB, open files, threads."""

    memory: float
    files: int
    threads: int


def footprint(server: PredictionServer) -> Footprint:
    process = psutil.Process(server.process.pid)
    family = [process, *process.children()]
    memory = sum(member.memory_info().rss for member in family) / 1e6
    files = sum(member.num_fds() for member in family)
    return Footprint(memory, files, sum(member.num_threads() for member in family))


def test_2000_swaps_under_64_clients_fail_no_request(harness: ModelHarness) -> None:
    """Fault 29: memory, files and threads do not grow; the duration is printed."""
    deploy_windows(harness, last=3)
    footprints: list[Footprint] = []
    with harness.open_model() as ctx, running_server(harness) as server:
        first, appender = server.model_status(), LedgerAppender(harness, ctx)
        models = [digest for digest in bundle_digests(ctx) if digest != first["digest"]]
        models.append(first["digest"])
        appended: dict[int, tuple[str, float]] = {}
        started_at = time.monotonic()
        with load_generator_for(server).running(CLIENTS, interval=0.1) as clients:
            for number in range(SWAPS):
                appended_at, digest = time.monotonic(), models[number % len(models)]
                seq = appender.deploy(digest).seq
                appended[seq] = digest, appended_at
                clients.wait_for_version(seq)
                if number + 1 in (WARMUP_SWAPS, SWAPS):
                    footprints.append(footprint(server))
        duration = time.monotonic() - started_at
        clients.assert_all_correct()
        for seq, (digest, appended_at) in appended.items():
            answered, answered_at = clients.first_answers.pop(seq)
            assert answered == digest
            assert answered_at > appended_at
        assert clients.first_answers.keys() <= {first["version"]}
        assert server.metric("tidemill_swaps_total", model=harness.model) == SWAPS
        assert server.metric("tidemill_load_failures_total", model=harness.model) == 0
        read_chain(ctx)  # copies the entries, as the next deployment would
    print(f"{duration:.0f} s, {clients.answer_count} responses, {footprints}")
    after_warmup, end = footprints
    assert end.files < after_warmup.files + 5  # a validation in progress uses some
    assert end.threads == after_warmup.threads
    assert end.memory < after_warmup.memory + 20
    oracle.assert_consistent(harness)
