"""Swaps under load: no request fails, and each prediction is that of the model it names."""

import json
import time
from statistics import median

from support.models.harness import events
from support.serving.prediction_server import (
    ROW,
    LedgerFixture,
    LoadClients,
    predict_offline,
    running_server,
)

SWAPS = 12


def request_rows() -> list[dict[str, object]]:
    decoded = [json.loads(value) for _, value in events(5, 40)]
    return [{k: v for k, v in row.items() if k != "bought"} for row in decoded]


def test_swaps_under_load_fail_no_request_and_mix_no_models(
    ledger_fixture: LedgerFixture,
) -> None:
    ledger_fixture.deploy(ledger_fixture.first_digest)
    appended_at: dict[int, float] = {}
    with running_server(ledger_fixture.harness) as server:
        clients = LoadClients(server, request_rows())
        with clients.running(4, interval=0.002):
            for number in range(1, SWAPS + 1):
                digest = ledger_fixture.second_digest if number % 2 else ledger_fixture.first_digest
                entry = ledger_fixture.deploy(digest)
                appended_at[entry.seq] = time.time()
                server.wait_for_status(version=entry.seq, digest=digest)
        assert clients.failures == []
        swaps = server.metric("tidemill_swaps_total", model=ledger_fixture.harness.model)
    expected = {
        digest: predict_offline(ledger_fixture.ctx, digest, clients.rows)
        for digest in (ledger_fixture.first_digest, ledger_fixture.second_digest)
    }
    entries = [valid_entry.entry for valid_entry in ledger_fixture.ctx.chain().entries]
    digests = {entry.seq: entry.digest for entry in entries}
    for index, _, response in clients.responses:
        assert response["predictions"] == [expected[response["digest"]][index]]
        assert digests[response["version"]] == response["digest"]
    first_response_at = {
        version: min(
            received_at
            for _, received_at, response in clients.responses
            if response["version"] == version
        )
        for version in appended_at
    }
    assert swaps == SWAPS
    delays = [first_response_at[version] - appended_at[version] for version in appended_at]
    assert median(delays) < 1


def test_a_bundle_damaged_in_the_store_is_not_served(
    ledger_fixture: LedgerFixture,
) -> None:
    ledger_fixture.deploy(ledger_fixture.first_digest)
    with running_server(ledger_fixture.harness) as server:
        before = server.predict(ROW).json()
        store = ledger_fixture.harness.settings.store / ledger_fixture.harness.model / "models"
        (store / f"{ledger_fixture.second_digest}.bundle").write_bytes(b"{}\ntree\n")
        ledger_fixture.deploy(ledger_fixture.second_digest)
        status = server.wait_for_status(
            ledger_version=1, stale="entry 1 could not be taken into service"
        )
        assert status["last_failure"]["error"] == "DigestMismatch"
        assert status["last_failure"]["digest"] == ledger_fixture.second_digest
        assert server.predict(ROW).json() == before
        assert server.get("/v2/health/ready").status_code == 200
        assert (
            server.metric("tidemill_load_failures_total", model=ledger_fixture.harness.model) >= 1
        )
        assert server.metric("tidemill_ledger_lag_entries", model=ledger_fixture.harness.model) == 1
        assert "DigestMismatch" in server.output()
