"""What a client says that it saw: failures are counted, and swaps are told apart from the rest."""

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


def test_a_request_without_an_answer_has_failed_and_says_why_once() -> None:
    refused = [RequestResult(at, 0.1, error="503: not yet") for at in (11.0, 12.0)]
    told = summarize_traffic([make_response(13.0, 0), *refused], LEDGER)
    assert (told.requests, told.failed, told.errors) == (3, 2, ("503: not yet",))


def test_an_answer_by_a_model_that_the_ledger_does_not_name_has_failed() -> None:
    others = [RequestResult(21.0, 0.1, 1, "first"), RequestResult(21.0, 0.1, 7, "third")]
    told = summarize_traffic([make_response(12.0, 0), *others], LEDGER)
    assert told.failed == 2
    assert "first as version 1" in told.errors[0]


def test_the_first_model_that_answers_takes_over_from_none() -> None:
    told = summarize_traffic([make_response(12.0, 0), make_response(13.0, 0)], LEDGER)
    assert (told.swaps, told.first_response_ms) == (0, ())
    assert told.during_swaps == LatencySummary(0, None, None)


def test_a_swap_is_from_the_ledger_s_entry_to_the_first_answer_by_the_new_model() -> None:
    told = summarize_traffic(
        [
            make_response(19.0, 0),
            make_response(20.2, 1, 0.05),
            make_response(20.1, 0),
            make_response(40.0, 1),
        ],
        LEDGER,
    )
    assert told.swaps == 1
    assert [round(ms) for ms in told.first_response_ms] == [250]


def test_a_version_that_nobody_saw_is_no_swap() -> None:
    told = summarize_traffic([make_response(12.0, 0), make_response(30.5, 2)], LEDGER)
    assert [round(ms) for ms in told.first_response_ms] == [501]


def test_requests_that_a_swap_touches_are_told_apart() -> None:
    touched = [
        make_response(19.9, 0, 0.2),  # under way when the entry came
        make_response(20.2, 0, 0.2),
        make_response(20.3, 1, 0.2),
        make_response(20.5 + SWAP_SETTLE_SECONDS - 0.01, 1, 0.2),
    ]
    rest = [
        make_response(19.0, 0),
        make_response(20.5 + SWAP_SETTLE_SECONDS + 0.01, 1),
        make_response(25.0, 1),
    ]
    told = summarize_traffic([*touched, *rest], LEDGER)
    assert told.during_swaps.requests == 4
    assert told.during_swaps.p99_ms is not None
    assert round(told.during_swaps.p99_ms) == 200
    assert told.between_swaps.requests == 3
    assert told.between_swaps.p50_ms is not None
    assert round(told.between_swaps.p50_ms) == 1
