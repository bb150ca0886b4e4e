"""Synthetic windows to report on, and the reports of a whole stream of them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl

from tidemill.core import report
from tidemill.core.evaluation import EvaluationInputs, EvaluationRows, scored_roles
from tidemill.core.gate import AppliedEntry
from tidemill.core.records import Candidate, FileRef, Sample
from tidemill.core.report_records import InputDigests, Report
from tidemill.core.scoring import Array
from tidemill.core.spec import ModelSpec
from tidemill.core.windows import Window

N, HOUR = 960, 3_600_000


def make_spec(**changes: Any) -> ModelSpec:
    attributes: dict[str, Any] = {
        "topic": "tides",
        "fields": {"sky": "category", "height": "number"},
        "label": "flood",
        "windows": {"start": "2024-01-01"},
        "gate": {"slices": ["sky"]},
    }
    return ModelSpec.create("m", attributes | changes)


SPEC = make_spec()


def make_candidate(window: Window, digest: str, parent: str, holdout: str | None) -> Candidate:
    return Candidate(
        model="floods", lineage="line", window=window.key, kind="continue", batch="0" * 64,
        parent=parent, digest=digest, num_iterations=1, tree_digest="0" * 64, holdout=holdout,
        tail_rows=N // 5, since_retrain=1, sample=Sample(FileRef("sample", "0" * 64, 1)), seed=0,
        libraries={},
    )  # fmt: skip


def make_inputs(window: Window, previous: Report | None = None, **changes: Any) -> EvaluationInputs:
    candidate = make_candidate(
        window, f"k{window.key}", changes.pop("parent", "initial"), "holdout"
    )
    inputs = EvaluationInputs(
        model="floods", spec=SPEC, window=window, candidate=candidate, initial="initial",
        previous=previous, input_digests=InputDigests(None, "1" * 64, "2" * 64),
    )  # fmt: skip
    return replace(inputs, **changes)


def first_window() -> Window:
    return SPEC.calendar.first


def make_rows(
    window: Window, label: Array, sky: Sequence[str | None] | None = None
) -> EvaluationRows:
    n = len(label)
    times = window.start + np.arange(n, dtype=np.int64) * (24 * HOUR // max(n, 1))
    values = ["clear", "rain", None, "fog"] * (n // 4) if sky is None else sky
    tail = np.arange(n) >= n - N // 5
    return EvaluationRows(label, times, tail, {"sky": pl.Series(values, dtype=pl.String)})


class SyntheticLabels:
    """Binary labels; each model predicts with a share, its skill, of the true logit."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)

    def window(self) -> tuple[Array, Array]:
        logit = self.rng.normal(-1, 1.5, N)
        return logit, (self.rng.random(N) < 1 / (1 + np.exp(-logit))).astype(float)

    @staticmethod
    def predictions(logit: Array, skill: float) -> Array:
        return np.asarray(1 / (1 + np.exp(-(skill * logit - 1 * (1 - skill)))))


def judge_windows(
    windows: int,
    skill: Callable[[int], float],
    seed: int = 1,
    entries: Mapping[int, tuple[AppliedEntry, ...]] | None = None,
    permuted: bool = False,
) -> list[Report]:
    """The reports of a stream. The candidate of window w and its holdout fit have the skill
    `skill(w)`, the initial model has `skill(0)`."""
    labels, skill_by_digest = SyntheticLabels(seed), {"initial": skill(0)}
    reports: list[Report] = []
    window, parent = first_window(), "initial"
    for w in range(1, windows + 1):
        logit, label = labels.window()
        label = labels.rng.permutation(label) if permuted else label
        digest = f"k{w:03}"
        skill_by_digest[digest] = skill(w)
        inputs = make_inputs(
            window,
            reports[-1] if reports else None,
            candidate=make_candidate(window, digest, parent, f"h{w:03}"),
            entries=(entries or {}).get(w, ()),
        )
        rows = make_rows(window, label)
        predictions = {
            d: labels.predictions(logit, skill_by_digest[d]) for d in scored_roles(inputs).values()
        }
        holdout_predictions = labels.predictions(logit[rows.tail], skill(w))
        reports.append(report.build_report(inputs, rows, predictions, holdout_predictions))
        window, parent = SPEC.calendar.after(window), digest
    return reports


def verdicts(reports: list[Report]) -> list[str]:
    return [window_report.verdict for window_report in reports]


def first_report(
    window: Window | None = None, label: Array | None = None, **changes: Any
) -> Report:
    """The report of the first window; the initial model is champion, baseline and challenger."""
    logit, generated = SyntheticLabels(4).window()
    label = generated if label is None else label
    rows = make_rows(first_window(), label)
    predictions = {"initial": SyntheticLabels.predictions(logit, 0.5)[: len(label)]}
    holdout_predictions = SyntheticLabels.predictions(logit, 0.9)[: len(label)][rows.tail]
    return report.build_report(
        make_inputs(window or first_window(), **changes), rows, predictions, holdout_predictions
    )
