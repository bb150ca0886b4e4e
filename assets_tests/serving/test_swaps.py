"""Models are swapped while they answer: nothing fails, and every answer is that of its digest."""

import json
import time
from statistics import median

from bench import events
from serving_hands import ROW, Clients, Ledgered, offline, serving

SWAPS = 12


def rows() -> list[dict[str, object]]:
    told = [json.loads(value) for _, value in events(5, 40)]
    return [{k: v for k, v in row.items() if k != "bought"} for row in told]


def test_swapped_under_clients_nothing_fails_and_nothing_is_mixed(ledgered: Ledgered) -> None:
    ledgered.deploy(ledgered.one)
    appended: dict[int, float] = {}
    with serving(ledgered.bench) as server:
        clients = Clients(server, rows())
        with clients.asking(4, pause=0.002):
            for number in range(1, SWAPS + 1):
                digest = ledgered.other if number % 2 else ledgered.one
                entry = ledgered.deploy(digest)
                appended[entry.seq] = time.time()
                server.until(version=entry.seq, digest=digest)
        assert clients.failed == []
        swaps = server.metric("tidemill_swaps_total", model=ledgered.bench.model)
    wanted = {d: offline(ledgered.mill, d, clients.rows) for d in (ledgered.one, ledgered.other)}
    named = {s.entry.seq: s.entry.digest for s in ledgered.mill.chain().entries}
    for at, _, told in clients.answers:
        assert told["predictions"] == [wanted[told["digest"]][at]]
        assert named[told["version"]] == told["digest"]
    first = {
        version: min(when for _, when, told in clients.answers if told["version"] == version)
        for version in appended
    }
    assert swaps == SWAPS
    assert median(first[version] - when for version, when in appended.items()) < 1


def test_a_bundle_damaged_in_the_store_leaves_everything_as_it_was(ledgered: Ledgered) -> None:
    ledgered.deploy(ledgered.one)
    with serving(ledgered.bench) as server:
        before = server.predict(ROW).json()
        store = ledgered.bench.settings.store / ledgered.bench.model / "models"
        (store / f"{ledgered.other}.bundle").write_bytes(b"{}\ntree\n")
        ledgered.deploy(ledgered.other)
        told = server.until(ledger_version=1, stale="entry 1 could not be taken into service")
        assert told["last_failure"]["error"] == "DigestMismatch"
        assert told["last_failure"]["digest"] == ledgered.other
        assert server.predict(ROW).json() == before
        assert server.get("/v2/health/ready").status_code == 200
        assert server.metric("tidemill_load_failures_total", model=ledgered.bench.model) >= 1
        assert server.metric("tidemill_ledger_lag_entries", model=ledgered.bench.model) == 1
        assert "DigestMismatch" in server.said()
