"""Models are swapped while they answer: nothing fails, and every answer is that of its digest."""

import json
import time
from statistics import median

from model_harness import events
from prediction_server import ROW, LedgerFixture, LoadClients, predict_offline, running_server

SWAPS = 12


def request_rows() -> list[dict[str, object]]:
    decoded = [json.loads(value) for _, value in events(5, 40)]
    return [{k: v for k, v in row.items() if k != "bought"} for row in decoded]


def test_swapped_under_clients_nothing_fails_and_nothing_is_mixed(
    ledger_fixture: LedgerFixture,
) -> None:
    ledger_fixture.deploy(ledger_fixture.first_digest)
    appended: dict[int, float] = {}
    with running_server(ledger_fixture.harness) as server:
        clients = LoadClients(server, request_rows())
        with clients.running(4, pause=0.002):
            for number in range(1, SWAPS + 1):
                digest = ledger_fixture.second_digest if number % 2 else ledger_fixture.first_digest
                entry = ledger_fixture.deploy(digest)
                appended[entry.seq] = time.time()
                server.wait_for_status(version=entry.seq, digest=digest)
        assert clients.failures == []
        swaps = server.metric("tidemill_swaps_total", model=ledger_fixture.harness.model)
    wanted = {
        d: predict_offline(ledger_fixture.ctx, d, clients.rows)
        for d in (ledger_fixture.first_digest, ledger_fixture.second_digest)
    }
    named = {s.entry.seq: s.entry.digest for s in ledger_fixture.ctx.chain().entries}
    for at, _, told in clients.responses:
        assert told["predictions"] == [wanted[told["digest"]][at]]
        assert named[told["version"]] == told["digest"]
    first = {
        version: min(when for _, when, told in clients.responses if told["version"] == version)
        for version in appended
    }
    assert swaps == SWAPS
    assert median(first[version] - when for version, when in appended.items()) < 1


def test_a_bundle_damaged_in_the_store_leaves_everything_as_it_was(
    ledger_fixture: LedgerFixture,
) -> None:
    ledger_fixture.deploy(ledger_fixture.first_digest)
    with running_server(ledger_fixture.harness) as server:
        before = server.predict(ROW).json()
        store = ledger_fixture.harness.settings.store / ledger_fixture.harness.model / "models"
        (store / f"{ledger_fixture.second_digest}.bundle").write_bytes(b"{}\ntree\n")
        ledger_fixture.deploy(ledger_fixture.second_digest)
        told = server.wait_for_status(
            ledger_version=1, stale="entry 1 could not be taken into service"
        )
        assert told["last_failure"]["error"] == "DigestMismatch"
        assert told["last_failure"]["digest"] == ledger_fixture.second_digest
        assert server.predict(ROW).json() == before
        assert server.get("/v2/health/ready").status_code == 200
        assert (
            server.metric("tidemill_load_failures_total", model=ledger_fixture.harness.model) >= 1
        )
        assert server.metric("tidemill_ledger_lag_entries", model=ledger_fixture.harness.model) == 1
        assert "DigestMismatch" in server.output()
