"""Reports: streams of windows judged from predictions; records and Markdown."""

import html
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidemill.core import canonical, report, scoring
from tidemill.core.errors import ScoreInvalid
from tidemill.core.evaluation import EvaluationInputs, EvaluationRows, scored_roles
from tidemill.core.gate import AppliedEntry
from tidemill.core.records import Candidate, FileRef, Sample
from tidemill.core.report_markdown import escape, render_markdown
from tidemill.core.report_records import CumulativeLosses, InputDigests, ModelInRole, Report
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


# Streams.


def test_a_model_against_itself_is_never_promoted() -> None:
    for seed in range(3):
        reports = judge_windows(30, lambda w: 0.7, seed)
        assert verdicts(reports) == ["keep"] * 30
        assert {window_report.state.champion for window_report in reports} == {"initial"}
        assert all(window_report.comparisons[-1].estimate.t is None for window_report in reports)


def test_a_lineage_that_learns_is_promoted_and_becomes_the_baseline() -> None:
    reports = judge_windows(24, lambda w: min(1.0, 0.2 + w / 10))
    assert verdicts(reports)[0] == "promote"
    assert "rollback" not in verdicts(reports)
    assert reports[-1].state.baseline != "initial"
    sums = reports[-1].cumulative_losses.sums
    assert sums["champion"] < sums["initial"]


def test_a_lineage_that_turns_harmful_is_rolled_back_and_not_promoted_again() -> None:
    reports = judge_windows(20, lambda w: 0.9 if w < 12 else -0.5, entries=_approval("k012", 14))
    rollback = verdicts(reports).index("rollback")
    assert rollback == 13  # window 14 judges the model that was approved before it
    assert reports[rollback].opening_state.champion == "k012"
    assert reports[rollback].state.champion == reports[rollback].opening_state.baseline
    assert {window_report.state.mode for window_report in reports[rollback:]} == {"RECOVERY"}
    assert verdicts(reports)[rollback + 1 :] == ["keep"] * (20 - rollback - 1)


def _approval(digest: str, w: int) -> dict[int, tuple[AppliedEntry, ...]]:
    return {w: (AppliedEntry(7, "f" * 64, "approve", digest),)}


def test_a_few_lucky_windows_do_not_replace_the_baseline() -> None:
    reports = judge_windows(10, lambda w: 0.9 if 2 <= w <= 4 else 0.5)
    assert "promote" in verdicts(reports)[:4]
    assert {window_report.state.baseline for window_report in reports[:7]} == {"initial"}


def test_after_a_manual_rollback_a_recovered_lineage_is_promoted_again() -> None:
    entries = {6: (AppliedEntry(5, "e" * 64, "rollback", "initial"),)}
    reports = judge_windows(14, lambda w: 0.2 if w == 0 else 0.9, entries=entries)
    sixth = reports[5]
    assert sixth.previous_state.champion != "initial"
    assert (sixth.opening_state.champion, sixth.opening_state.mode) == ("initial", "RECOVERY")
    assert (sixth.entries, sixth.ledger_seq) == (entries[6], 5)
    assert {window_report.ledger_seq for window_report in reports[6:]} == {5}
    assert {window_report.ledger_seq for window_report in reports[:5]} == {-1}
    assert reports[-1].state.mode == "FOLLOW"
    assert reports[-1].state.champion != "initial"


def test_permuted_labels_raise_the_alarm_and_labels_in_place_do_not() -> None:
    silent = [
        window_report.permutation_check.alarm for window_report in judge_windows(20, lambda w: 0.8)
    ]
    alarmed = [
        window_report.permutation_check.alarm
        for window_report in judge_windows(20, lambda w: 0.8, permuted=True)
    ]
    assert silent == [False] * 20
    assert sum(alarm is True for alarm in alarmed) >= 17


# What a report contains.


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


def test_the_same_case_gives_the_same_bytes() -> None:
    assert canonical.encode(first_report()) == canonical.encode(first_report())


def test_a_report_read_back_is_the_report_and_reads_the_same() -> None:
    window_report = judge_windows(9, lambda w: min(1.0, 0.3 + w / 10))[-1]
    decoded = canonical.decode(canonical.encode(window_report), Report)
    assert decoded == window_report
    assert render_markdown(decoded) == render_markdown(window_report)


def test_every_model_is_scored_on_the_same_rows() -> None:
    logit, label = SyntheticLabels(4).window()
    rows = make_rows(first_window(), label)
    window_report = first_report()
    losses = scoring.row_losses("binary", label, SyntheticLabels.predictions(logit, 0.5), {})
    tail = scoring.row_losses(
        "binary", label[rows.tail], SyntheticLabels.predictions(logit, 0.9)[rows.tail], {}
    )
    for role in ("initial", "champion", "baseline", "challenger"):
        assert window_report.losses[role] == pytest.approx(losses.mean())
    assert window_report.losses["champion_on_tail"] == pytest.approx(losses[rows.tail].mean())
    assert window_report.losses["holdout_on_tail"] == pytest.approx(tail.mean())
    prior = window_report.losses["prior"]
    assert prior is not None
    assert prior > losses.mean()
    assert (window_report.rows, window_report.clusters, window_report.tail_rows) == (N, 24, N // 5)
    assert window_report.base_rate == label.mean()
    assert sum(part.n for part in window_report.slices) == N
    assert {part.value for part in window_report.slices} == {"clear", "rain", "fog", None}
    assert window_report.comparisons[-1].estimate.m == pytest.approx(
        (losses[rows.tail] - tail).mean()
    )


def test_the_holdout_fit_is_entered_against_the_champion_and_not_the_baseline() -> None:
    window_report = judge_windows(3, lambda w: min(1.0, 0.2 + w / 4))[-1]
    tail = window_report.comparisons[-1]
    assert window_report.opening_state.champion != window_report.opening_state.baseline
    assert (tail.scope, tail.pair.reference) == ("tail", window_report.opening_state.champion)
    assert tail.estimate.loss == pytest.approx(window_report.losses["champion_on_tail"])
    assert window_report.losses["champion"] != window_report.losses["baseline"]


def test_cumulative_losses_are_the_sums_over_all_windows() -> None:
    reports = judge_windows(8, lambda w: min(1.0, 0.3 + w / 10))
    for role in ("initial", "champion", "baseline", "challenger"):
        total = sum(
            (window_report.losses[role] or 0) * window_report.rows for window_report in reports
        )
        assert reports[-1].cumulative_losses.sums[role] == pytest.approx(total)
    assert reports[-1].cumulative_losses.rows == 8 * N


def test_ages_and_digests_are_reported_by_role() -> None:
    window_report = first_report(ages={"initial": 3})
    assert window_report.models["champion"] == ModelInRole("initial", 3)
    assert window_report.models["candidate"] == ModelInRole(f"k{first_window().key}", None)
    assert window_report.models["holdout"].digest == "holdout"


def test_a_window_without_rows_keeps_the_champion_and_has_no_numbers() -> None:
    window = first_window()
    candidate = make_candidate(window, "initial", "initial", None)
    rows = EvaluationRows(
        np.zeros(0), np.zeros(0, dtype=np.int64), None, {"sky": pl.Series([], dtype=pl.String)}
    )
    window_report = report.build_report(
        make_inputs(window, candidate=candidate), rows, {"initial": np.zeros(0)}
    )
    assert (
        window_report.verdict,
        window_report.rows,
        window_report.clusters,
        window_report.tail_rows,
    ) == ("keep", 0, 0, 0)
    assert set(window_report.losses.values()) == {None}
    assert (
        window_report.base_rate,
        window_report.auc,
        window_report.calibration,
        window_report.permutation_check.alarm,
    ) == (None,) * 4
    assert window_report.cumulative_losses == CumulativeLosses(
        0, dict.fromkeys(window_report.cumulative_losses.sums, 0.0)
    )
    assert canonical.decode(canonical.encode(window_report), Report) == window_report
    assert "keep" in render_markdown(window_report)


def test_a_window_of_one_class_has_no_auc_and_raises_no_alarm() -> None:
    window_report = first_report(label=np.zeros(N))
    assert window_report.auc is None
    assert window_report.permutation_check.alarm is None
    assert window_report.base_rate == 0
    assert "AUC –" in render_markdown(window_report)


def test_a_holdout_fit_without_predictions_is_an_error_and_not_a_missing_fit() -> None:
    logit, label = SyntheticLabels(4).window()
    rows = make_rows(first_window(), label)
    with pytest.raises(ScoreInvalid, match="holdout fit holdout of window 2024-01-01"):
        report.build_report(
            make_inputs(first_window()), rows, {"initial": SyntheticLabels.predictions(logit, 0.5)}
        )


def test_no_bytes_of_a_report_are_not_a_number() -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    for window_report in (
        *judge_windows(7, lambda w: 0.3 + w / 10),
        first_report(label=np.ones(N)),
    ):
        json.loads(canonical.encode(window_report), parse_constant=refuse)


@pytest.mark.parametrize(
    ("cron", "cluster_length", "expected"),
    [("0 0 * * *", None, HOUR), ("*/5 * * * *", None, 12_500), ("0 0 * * *", "10m", 600_000)],
)
def test_a_cluster_is_an_hour_or_a_24th_of_the_window_unless_configured(
    cron: str, cluster_length: str | None, expected: int
) -> None:
    gate = {"cluster_length": cluster_length, "slices": ["sky"]}
    spec = make_spec(windows={"start": "2024-01-01", "cron": cron}, gate=gate)
    assert first_report(spec.calendar.first, spec=spec).cluster_length == expected


@pytest.mark.parametrize("objective", ["multiclass", "regression", "poisson"])
def test_other_objectives_are_judged_in_the_same_way(objective: str) -> None:
    spec = make_spec(objective=objective, classes=["a", "b"] if objective == "multiclass" else [])
    logit, label = SyntheticLabels(4).window()
    rows = make_rows(first_window(), label)
    poor, good = SyntheticLabels.predictions(logit, 0.1), SyntheticLabels.predictions(logit, 0.9)
    if objective == "multiclass":
        poor, good = np.stack([1 - poor, poor], 1), np.stack([1 - good, good], 1)
    window_report = report.build_report(
        make_inputs(first_window(), spec=spec), rows, {"initial": poor}, good[rows.tail]
    )
    assert window_report.verdict == "promote"
    assert (window_report.auc, window_report.base_rate) == (None, None)
    assert (window_report.calibration is None) == (objective == "multiclass")
    assert canonical.decode(canonical.encode(window_report), Report) == window_report
    assert "## Models" in render_markdown(window_report)


# What a report shows.

HOSTILE = "<script>alert(1)</script>|[x](http://a.b)\n# h `c` **b** &amp; \u202e\x1b[31m"


def test_what_came_from_a_topic_is_escaped_in_markdown() -> None:
    window_report = replace(
        first_report(), slices=(scoring.Slice("sky", HOSTILE, 3, {"champion": 0.5}),)
    )
    shown = render_markdown(window_report)
    assert "<script" not in shown
    assert "](http" not in shown
    assert "\u202e" not in shown
    assert "\x1b" not in shown
    line = next(line for line in shown.splitlines() if "script" in line)
    assert line.startswith("| sky | &lt;script&gt;alert\\(1\\)")
    assert line.endswith("| 3 | 0.5 |")


@given(st.text(max_size=200) | st.text("\\`*_[]()<>&|#!~@:/.\n\u202e ax", max_size=80))
def test_escaped_text_is_one_line_in_which_no_mark_is_live(text: str) -> None:
    shown = escape(text)
    inert = re.compile(r"\\([!-/:-@\[-`{-~])|(&(?:amp|lt|gt|quot|#39);)|([^!-/:-@\[-`{-~])")
    parts = list(inert.finditer(shown))
    assert "".join(part[0] for part in parts) == shown
    assert shown.isprintable()
    read = "".join(part[1] or part[3] or html.unescape(part[2]) for part in parts)
    if text.isprintable() and len(text) <= 80:
        assert read == text
    assert len(read) <= 80


def test_a_report_in_markdown_has_verdict_reasons_and_numbers() -> None:
    window_report = judge_windows(9, lambda w: min(1.0, 0.3 + w / 10))[-1]
    shown = render_markdown(window_report)
    assert shown.startswith(f"# floods, 2024-01-09: {window_report.verdict}\n")
    heads = [line for line in shown.splitlines() if line.startswith("## ")]
    assert [head.split(",")[0] for head in heads] == [
        "## Gate", "## Models", "## Comparisons", "## Champion", "## Mean losses by slice",
        "## Cumulative mean losses", "## Inputs",
    ]  # fmt: skip
    for comparison in window_report.comparisons:
        assert f"| {comparison.scope} |" in shown
