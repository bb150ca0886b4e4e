"""Models swapped thousands of times under clients: no answer fails, each is its digest's own."""

import time
from dataclasses import dataclass

import psutil
import pytest

import oracle
from bundle_mutations import LedgerAppender, deploy_windows
from load_generator import load_generator_for
from model_harness import ModelHarness
from prediction_server import PredictionServer, bundle_digests, running_server
from tidemill.cycle.deploy import read_chain

pytestmark = pytest.mark.faults

SWAPS, CLIENTS = 2_000, 64
WARMUP_SWAPS = 200
"""Swaps after which memory, files and threads are to be what they are at the end."""


@dataclass(frozen=True)
class Footprint:
    """What a server and its helper hold: MB resident, open files, threads."""

    memory: float
    files: int
    threads: int


def footprint(server: PredictionServer) -> Footprint:
    process = psutil.Process(server.process.pid)
    family = [process, *process.children()]
    memory = sum(member.memory_info().rss for member in family) / 1e6
    files = sum(member.num_fds() for member in family)
    return Footprint(memory, files, sum(member.num_threads() for member in family))


def test_2000_swaps_under_64_clients_fail_no_answer(harness: ModelHarness) -> None:
    """Row 29: memory, files and threads stay what they were; how long it took is printed."""
    deploy_windows(harness, last=3)
    held: list[Footprint] = []
    with harness.open_model() as mill, running_server(harness) as server:
        first, appender = server.model_status(), LedgerAppender(harness, mill)
        models = [digest for digest in bundle_digests(mill) if digest != first["digest"]]
        models.append(first["digest"])
        appended: dict[int, tuple[str, float]] = {}
        begun = time.monotonic()
        with load_generator_for(server).running(CLIENTS, pause=0.1) as clients:
            for number in range(SWAPS):
                at, digest = time.monotonic(), models[number % len(models)]
                seq = appender.deploy(digest).seq
                appended[seq] = digest, at
                clients.wait_for_version(seq)
                if number + 1 in (WARMUP_SWAPS, SWAPS):
                    held.append(footprint(server))
        took = time.monotonic() - begun
        clients.assert_all_correct()
        for seq, (digest, at) in appended.items():
            told, seen = clients.first_answers.pop(seq)
            assert told == digest
            assert seen > at
        assert clients.first_answers.keys() <= {first["version"]}
        assert server.metric("tidemill_swaps_total", model=harness.model) == SWAPS
        assert server.metric("tidemill_load_failures_total", model=harness.model) == 0
        read_chain(mill)  # copies the entries, as the next deployment does
    print(f"{took:.0f} s, {clients.answer_count} answers, {held}")
    warm, end = held
    assert end.files < warm.files + 5  # a proof under way has some
    assert end.threads == warm.threads
    assert end.memory < warm.memory + 20
    oracle.assert_consistent(harness)
