"""Traffic summaries: failures are counted, and swaps are separated from other requests."""

from tidemill.demo.traffic import (
    SWAP_SETTLE_SECONDS,
    LatencySummary,
    LedgerAppend,
    RequestResult,
    summarize_traffic,
)

LEDGER = {
    0: LedgerAppend("first", 10.0),
    1: LedgerAppend("second", 20.0),
    2: LedgerAppend("third", 30.0),
}


def make_response(sent_at: float, version: int, latency_seconds: float = 0.001) -> RequestResult:
    return RequestResult(sent_at, latency_seconds, version, LEDGER[version].digest)


def test_a_request_without_a_response_is_a_failure_with_its_error_listed_once() -> None:
    refused = [RequestResult(sent_at, 0.1, error="503: not yet") for sent_at in (11.0, 12.0)]
    summary = summarize_traffic([make_response(13.0, 0), *refused], LEDGER)
    assert (summary.requests, summary.failed, summary.errors) == (3, 2, ("503: not yet",))


def test_a_response_by_a_model_that_the_ledger_does_not_name_is_a_failure() -> None:
    others = [RequestResult(21.0, 0.1, 1, "first"), RequestResult(21.0, 0.1, 7, "third")]
    summary = summarize_traffic([make_response(12.0, 0), *others], LEDGER)
    assert summary.failed == 2
    assert "first as version 1" in summary.errors[0]


def test_the_first_model_that_answers_is_not_a_swap() -> None:
    summary = summarize_traffic([make_response(12.0, 0), make_response(13.0, 0)], LEDGER)
    assert (summary.swaps, summary.first_response_ms) == (0, ())
    assert summary.during_swaps == LatencySummary(0, None, None)


def test_a_swap_lasts_from_the_ledger_entry_to_the_first_response_of_the_new_model() -> None:
    summary = summarize_traffic(
        [
            make_response(19.0, 0),
            make_response(20.2, 1, 0.05),
            make_response(20.1, 0),
            make_response(40.0, 1),
        ],
        LEDGER,
    )
    assert summary.swaps == 1
    assert [round(ms) for ms in summary.first_response_ms] == [250]


def test_a_version_without_responses_is_not_a_swap() -> None:
    summary = summarize_traffic([make_response(12.0, 0), make_response(30.5, 2)], LEDGER)
    assert [round(ms) for ms in summary.first_response_ms] == [501]


def test_requests_in_flight_during_a_swap_are_summarized_separately() -> None:
    during_swap = [
        make_response(19.9, 0, 0.2),  # in flight when the entry is appended
        make_response(20.2, 0, 0.2),
        make_response(20.3, 1, 0.2),
        make_response(20.5 + SWAP_SETTLE_SECONDS - 0.01, 1, 0.2),
    ]
    between_swaps = [
        make_response(19.0, 0),
        make_response(20.5 + SWAP_SETTLE_SECONDS + 0.01, 1),
        make_response(25.0, 1),
    ]
    summary = summarize_traffic([*during_swap, *between_swaps], LEDGER)
    assert summary.during_swaps.requests == 4
    assert summary.during_swaps.p99_ms is not None
    assert round(summary.during_swaps.p99_ms) == 200
    assert summary.between_swaps.requests == 3
    assert summary.between_swaps.p50_ms is not None
    assert round(summary.between_swaps.p50_ms) == 1
