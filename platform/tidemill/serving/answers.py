"""What a client saw of a server while models changed: failures, swaps, and how long they took."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

TOLD = 5
"""Different faults, at most, that a sighting tells."""
SETTLES = 0.1
"""Seconds after the first answer of a new model that still count as its swap: the old one is
freed, and the local copy written, when that answer is out."""


@dataclass(frozen=True)
class Answer:
    """One request of a client.

    `asked` is seconds since 1970, `seconds` how long it took. `version` and `digest` are the
    answering model's; `fault` says why there is no answer.
    """

    asked: float
    seconds: float
    version: int | None = None
    digest: str | None = None
    fault: str | None = None

    @property
    def ended(self) -> float:
        return self.asked + self.seconds


@dataclass(frozen=True)
class Appended:
    """A standing entry of the ledger: its digest, and when it was appended (seconds since 1970)."""

    digest: str
    at: float


@dataclass(frozen=True)
class Span:
    """Milliseconds of requests, and how many they were; None where there were none."""

    requests: int
    p50: float | None
    p99: float | None


@dataclass(frozen=True)
class Seen:
    """What a client saw. `swaps` counts the models that it saw take over from another.

    A swap lasts from its ledger entry to `SETTLES` after the first answer by the new model;
    requests under way at any moment of one are `in_swaps`. `first_answer_ms` is, for each swap in
    the ledger's order, from the entry to the end of that answer.
    """

    requests: int
    failed: int
    faults: tuple[str, ...]
    swaps: int
    in_swaps: Span
    between: Span
    first_answer_ms: tuple[float, ...]


def seen(answers: Sequence[Answer], ledger: Mapping[int, Appended]) -> Seen:
    """Sum up; `ledger` has the standing entries by version.

    An answer by a model that the ledger does not name under that version has failed, too.
    """
    faults = [fault for answer in answers if (fault := _fault(answer, ledger)) is not None]
    firsts: dict[int, float] = {}
    for answer in answers:
        if answer.version is not None and answer.version in ledger:
            firsts[answer.version] = min(answer.ended, firsts.get(answer.version, answer.ended))
    swaps = {version: firsts[version] for _, version in pairwise(sorted(firsts))}
    times = [(ledger[version].at, first + SETTLES) for version, first in swaps.items()]
    inside = [any(a.asked < end and a.ended > begun for begun, end in times) for a in answers]
    return Seen(
        requests=len(answers),
        failed=len(faults),
        faults=tuple(dict.fromkeys(faults))[:TOLD],
        swaps=len(swaps),
        in_swaps=_span([a for a, within in zip(answers, inside, strict=True) if within]),
        between=_span([a for a, within in zip(answers, inside, strict=True) if not within]),
        first_answer_ms=tuple((first - ledger[v].at) * 1000 for v, first in swaps.items()),
    )


def _fault(answer: Answer, ledger: Mapping[int, Appended]) -> str | None:
    if answer.fault is not None:
        return answer.fault
    entry = None if answer.version is None else ledger.get(answer.version)
    if entry is None or entry.digest != answer.digest:
        return f"answered by {answer.digest} as version {answer.version}, which no entry says"
    return None


def _span(answers: Sequence[Answer]) -> Span:
    if not answers:
        return Span(0, None, None)
    p50, p99 = np.percentile([answer.seconds * 1000 for answer in answers], (50, 99))
    return Span(len(answers), float(p50), float(p99))
