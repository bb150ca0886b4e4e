"""What a client observed while models changed: failures, swaps, and their latencies."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

MAX_REPORTED_ERRORS = 5
"""The maximum number of distinct errors in a summary."""
SWAP_SETTLE_SECONDS = 0.1
"""Seconds after the first response of a new model that still count as its swap, because the old
model is freed and the local copy is written after that response."""


@dataclass(frozen=True)
class RequestResult:
    """One request of a client.

    `sent_at` is in seconds since 1970. `version` and `digest` are those of the model that answered;
    `error` says why there is no valid response.
    """

    sent_at: float
    duration_seconds: float
    version: int | None = None
    digest: str | None = None
    error: str | None = None

    @property
    def finished_at(self) -> float:
        return self.sent_at + self.duration_seconds


@dataclass(frozen=True)
class LedgerAppend:
    """A valid ledger entry: its digest, and when it was appended (seconds since 1970)."""

    digest: str
    appended_at: float


@dataclass(frozen=True)
class LatencySummary:
    """The number of requests, and percentiles of their latency; None without requests."""

    requests: int
    p50_ms: float | None
    p99_ms: float | None


@dataclass(frozen=True)
class TrafficSummary:
    """What a client observed. `swaps` counts the models that replaced another one.

    A swap lasts from its ledger entry to `SWAP_SETTLE_SECONDS` after the first response of the new
    model; `during_swaps` are the requests in flight at any moment of a swap. `first_response_ms` is
    the time from the entry to the end of that response, for each swap in the ledger's order.
    """

    requests: int
    failed: int
    errors: tuple[str, ...]
    swaps: int
    during_swaps: LatencySummary
    between_swaps: LatencySummary
    first_response_ms: tuple[float, ...]


def summarize_traffic(
    results: Sequence[RequestResult], ledger: Mapping[int, LedgerAppend]
) -> TrafficSummary:
    """Summarize results; `ledger` holds the valid entries by version.

    A response by a model that the ledger does not name under that version counts as failed.
    """
    errors = [error for result in results if (error := _result_error(result, ledger)) is not None]
    first_finished: dict[int, float] = {}
    for result in results:
        if result.version is not None and result.version in ledger:
            first_finished[result.version] = min(
                result.finished_at, first_finished.get(result.version, result.finished_at)
            )
    swaps = {version: first_finished[version] for _, version in pairwise(sorted(first_finished))}
    swap_intervals = [
        (ledger[version].appended_at, first + SWAP_SETTLE_SECONDS)
        for version, first in swaps.items()
    ]
    during_swap = [
        any(result.sent_at < end and result.finished_at > start for start, end in swap_intervals)
        for result in results
    ]
    return TrafficSummary(
        requests=len(results),
        failed=len(errors),
        errors=tuple(dict.fromkeys(errors))[:MAX_REPORTED_ERRORS],
        swaps=len(swaps),
        during_swaps=_latency_summary(
            [result for result, within in zip(results, during_swap, strict=True) if within]
        ),
        between_swaps=_latency_summary(
            [result for result, within in zip(results, during_swap, strict=True) if not within]
        ),
        first_response_ms=tuple(
            (first - ledger[version].appended_at) * 1000 for version, first in swaps.items()
        ),
    )


def _result_error(result: RequestResult, ledger: Mapping[int, LedgerAppend]) -> str | None:
    if result.error is not None:
        return result.error
    entry = None if result.version is None else ledger.get(result.version)
    if entry is None or entry.digest != result.digest:
        return f"answered by {result.digest} as version {result.version}, unlike the ledger"
    return None


def _latency_summary(results: Sequence[RequestResult]) -> LatencySummary:
    if not results:
        return LatencySummary(0, None, None)
    p50, p99 = np.percentile([result.duration_seconds * 1000 for result in results], (50, 99))
    return LatencySummary(len(results), float(p50), float(p99))
