"""What a client saw of a server while models changed: failures, swaps, and how long they took."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

MAX_REPORTED_ERRORS = 5
"""Different faults, at most, that a sighting tells."""
SWAP_SETTLE_SECONDS = 0.1
"""Seconds after the first answer of a new model that still count as its swap: the old one is
freed, and the local copy written, when that answer is out."""


@dataclass(frozen=True)
class RequestResult:
    """One request of a client.

    `asked` is seconds since 1970, `seconds` how long it took. `version` and `digest` are the
    answering model's; `fault` says why there is no answer.
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
    """A standing entry of the ledger: its digest, and when it was appended (seconds since 1970)."""

    digest: str
    appended_at: float


@dataclass(frozen=True)
class LatencySummary:
    """Milliseconds of requests, and how many they were; None where there were none."""

    requests: int
    p50_ms: float | None
    p99_ms: float | None


@dataclass(frozen=True)
class TrafficSummary:
    """What a client saw. `swaps` counts the models that it saw take over from another.

    A swap lasts from its ledger entry to `SETTLES` after the first answer by the new model;
    requests under way at any moment of one are `in_swaps`. `first_answer_ms` is, for each swap in
    the ledger's order, from the entry to the end of that answer.
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
    """Sum up; `ledger` has the standing entries by version.

    An answer by a model that the ledger does not name under that version has failed, too.
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
        any(a.sent_at < end and a.finished_at > start for start, end in swap_intervals)
        for a in results
    ]
    return TrafficSummary(
        requests=len(results),
        failed=len(errors),
        errors=tuple(dict.fromkeys(errors))[:MAX_REPORTED_ERRORS],
        swaps=len(swaps),
        during_swaps=_latency_summary(
            [a for a, within in zip(results, during_swap, strict=True) if within]
        ),
        between_swaps=_latency_summary(
            [a for a, within in zip(results, during_swap, strict=True) if not within]
        ),
        first_response_ms=tuple(
            (first - ledger[v].appended_at) * 1000 for v, first in swaps.items()
        ),
    )


def _result_error(result: RequestResult, ledger: Mapping[int, LedgerAppend]) -> str | None:
    if result.error is not None:
        return result.error
    entry = None if result.version is None else ledger.get(result.version)
    if entry is None or entry.digest != result.digest:
        return f"answered by {result.digest} as version {result.version}, which no entry says"
    return None


def _latency_summary(results: Sequence[RequestResult]) -> LatencySummary:
    if not results:
        return LatencySummary(0, None, None)
    p50, p99 = np.percentile([result.duration_seconds * 1000 for result in results], (50, 99))
    return LatencySummary(len(results), float(p50), float(p99))
