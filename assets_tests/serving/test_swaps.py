"""Swaps under load: no request fails, and each prediction is that of the model it names."""

import time
from statistics import median
from typing import Any

from serving.ledger_fixture import LedgerFixture, predict_offline
from support.serving.load_generator import LoadGenerator, request_rows
from support.serving.prediction_server import ROW, running_server

SWAPS = 12


def test_swaps_under_load_fail_no_request_and_mix_no_models(
    ledger_fixture: LedgerFixture,
) -> None:
    ledger_fixture.deploy(ledger_fixture.first_digest)
    appended_at: dict[int, float] = {}
    responses: list[tuple[int, dict[str, Any]]] = []
    with running_server(ledger_fixture.harness) as server:
        clients = LoadGenerator(server, request_rows(5), lambda *each: responses.append(each))
        with clients.running(4, interval=0.002):
            for number in range(1, SWAPS + 1):
                digest = ledger_fixture.second_digest if number % 2 else ledger_fixture.first_digest
                entry = ledger_fixture.deploy(digest)
                appended_at[entry.seq] = time.monotonic()
                server.wait_for_status(version=entry.seq, digest=digest)
        assert clients.failures == []
        swaps = server.metric("tidemill_swaps_total", model=ledger_fixture.harness.model)
    expected = {
        digest: predict_offline(ledger_fixture.ctx, digest, clients.rows)
        for digest in (ledger_fixture.first_digest, ledger_fixture.second_digest)
    }
    entries = [valid_entry.entry for valid_entry in ledger_fixture.ctx.chain().entries]
    digests = {entry.seq: entry.digest for entry in entries}
    for index, response in responses:
        assert response["predictions"] == [expected[response["digest"]][index]]
        assert digests[response["version"]] == response["digest"]
    assert swaps == SWAPS
    delays = [clients.first_answers[version][1] - appended_at[version] for version in appended_at]
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
