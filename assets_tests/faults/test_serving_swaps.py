"""Models swapped thousands of times under clients: no answer fails, each is its digest's own."""

import time
from dataclasses import dataclass

import psutil
import pytest

import oracle
from bench import Bench
from deployments import Appender, deployed
from serving_hands import Serving, digests, serving
from swarm import swarm
from tidemill.cycle.deploy import read_chain

pytestmark = pytest.mark.faults

SWAPS, CLIENTS = 2_000, 64
WARM = 200
"""Swaps after which memory, files and threads are to be what they are at the end."""


@dataclass(frozen=True)
class Footprint:
    """What a server and its helper hold: MB resident, open files, threads."""

    memory: float
    files: int
    threads: int


def footprint(server: Serving) -> Footprint:
    process = psutil.Process(server.process.pid)
    family = [process, *process.children()]
    memory = sum(member.memory_info().rss for member in family) / 1e6
    files = sum(member.num_fds() for member in family)
    return Footprint(memory, files, sum(member.num_threads() for member in family))


def test_2000_swaps_under_64_clients_fail_no_answer(bench: Bench) -> None:
    """Row 29: memory, files and threads stay what they were; how long it took is printed."""
    deployed(bench, last=3)
    held: list[Footprint] = []
    with bench.mill() as mill, serving(bench) as server:
        first, appender = server.model(), Appender(bench, mill)
        models = [digest for digest in digests(mill) if digest != first["digest"]]
        models.append(first["digest"])
        appended: dict[int, tuple[str, float]] = {}
        begun = time.monotonic()
        with swarm(server).asking(CLIENTS, pause=0.1) as clients:
            for number in range(SWAPS):
                at, digest = time.monotonic(), models[number % len(models)]
                seq = appender.deploy(digest).seq
                appended[seq] = digest, at
                clients.see(seq)
                if number + 1 in (WARM, SWAPS):
                    held.append(footprint(server))
        took = time.monotonic() - begun
        clients.right()
        for seq, (digest, at) in appended.items():
            told, seen = clients.seen.pop(seq)
            assert told == digest
            assert seen > at
        assert clients.seen.keys() <= {first["version"]}
        assert server.metric("tidemill_swaps_total", model=bench.model) == SWAPS
        assert server.metric("tidemill_load_failures_total", model=bench.model) == 0
        read_chain(mill)  # copies the entries, as the next deployment does
    print(f"{took:.0f} s, {clients.answered} answers, {held}")
    warm, end = held
    assert end.files < warm.files + 5  # a proof under way has some
    assert end.threads == warm.threads
    assert end.memory < warm.memory + 20
    oracle.check(bench)
