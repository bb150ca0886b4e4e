"""What a report contains: the records of a window's evaluation."""

import json

import numpy as np
import polars as pl
import pytest

from core.report_cases import (
    HOUR,
    N,
    SyntheticLabels,
    first_report,
    first_window,
    judge_windows,
    make_candidate,
    make_inputs,
    make_rows,
    make_spec,
)
from tidemill.core import canonical, report, scoring
from tidemill.core.errors import ScoreInvalid
from tidemill.core.evaluation import EvaluationRows
from tidemill.core.report_markdown import render_markdown
from tidemill.core.report_records import CumulativeLosses, ModelInRole, Report


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
