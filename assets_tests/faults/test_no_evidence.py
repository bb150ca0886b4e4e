"""Where there is no evidence the gate says so, and noise does not pass for a better model."""

import json
from collections import Counter
from statistics import mean

import polars as pl
import pytest

import oracle
from model_harness import MINUTE, START, ModelHarness, events, run_window, run_windows
from noise_candidates import DAILY, WEEKLY, reports, scored_windows, verdict_counts
from tidemill.core.report import Report
from tidemill.cycle.context import ModelContext
from tidemill.cycle.extract import extract
from tidemill.cycle.initial import initial


def load_report(ctx: ModelContext, harness: ModelHarness, number: int) -> Report:
    report = ctx.repository.report(harness.window(number).key)
    assert report is not None
    return report


def test_a_historical_row_whose_label_is_nan_is_rejected(harness: ModelHarness) -> None:
    """Row 36: JSON has no NaN, a file of history has."""
    rows = [json.loads(value) | {"at": at} for n in (-3, -2, -1) for at, value in events(n)]
    history = pl.DataFrame(rows).with_columns(pl.col("bought").cast(pl.Float64))
    bad = pl.int_range(pl.len()) % 50 == 7
    told = history.with_columns(bought=pl.when(bad).then(float("nan")).otherwise("bought"))
    harness.define(initial={"file": "history.parquet", "time": "at"})
    told.write_parquet(harness.home / "models" / harness.model / "history.parquet")
    harness.produce_windows(0, 2)
    with harness.open_model() as mill:
        run_windows(mill, 0, 1)
        manifest = mill.repository.manifest("initial")
        assert manifest is not None
        assert (manifest.rows, manifest.rejected) == (588, 12)
        assert set(manifest.reasons) == {"`bought`: expected number or boolean, got null"}
    oracle.assert_consistent(harness)


def test_a_window_of_one_class_is_judged_without_auc(harness: ModelHarness) -> None:
    """Row 36: no error, and no AUC of .5 that nobody measured."""
    harness.produce_windows(-3, 0)
    for partition in range(2):
        sold_out = [(at, json.dumps(json.loads(value) | {"bought": False}).encode())
                    for at, value in events(1)[partition::2]]  # fmt: skip
        harness.produce(partition, sold_out)
    harness.produce_windows(2, 3)
    with harness.open_model() as mill:
        run_windows(mill, 0, 2)
        report = load_report(mill, harness, 1)
        assert (report.base_rate, report.auc, report.rows) == (0.0, None, 200)
        assert report.losses["prior"] is not None
        assert report.calibration is not None
    oracle.assert_consistent(harness)


def test_too_few_rows_are_no_evidence_and_change_no_model(harness: ModelHarness) -> None:
    """Row 36: under 150 rows no holdout fit, under `min_rows` no verdict of the guard."""
    harness.define(gate={"min_rows": 250})
    harness.produce_windows(-3, 0)
    for number, few in ((1, 149), (2, 20), (3, 1)):
        harness.produce(0, events(number)[:few])
        harness.produce(1, [])
    harness.produce_windows(4, 5)
    with harness.open_model() as mill:
        run_windows(mill, 0, 4)
        first = load_report(mill, harness, 0)
        for number in (1, 2, 3):
            report = load_report(mill, harness, number)
            assert report.verdict == "keep"
            assert report.state.champion == first.state.champion
            assert report.reasons[-1] == "no holdout fit: too few rows to learn and judge on"
            judged = [found.outcome for found in report.comparisons if found.scope == "window"]
            assert judged in ([], ["no evidence"])
    oracle.assert_consistent(harness)


def test_few_clusters_or_equal_gains_are_no_evidence_for_the_guard(harness: ModelHarness) -> None:
    """Row 36: 200 rows of one instant are one cluster, which says nothing of chance."""
    harness.define(gate={"policy": "always", "min_rows": 50})
    harness.produce_windows(-3, 0)
    harness.produce(0, [(START + 6 * MINUTE, value) for _, value in events(1)])
    harness.produce_windows(2, 3)
    with harness.open_model() as mill:
        initial(mill)
        run_window(mill, 0)
    harness.define(gate={"policy": "guarded", "min_rows": 50})
    with harness.open_model() as mill:
        run_window(mill, 1)
        report = load_report(mill, harness, 1)
        assert (report.rows, report.clusters) == (200, 1)
        assert report.permutation_check.alarm is None
        assert all(f.outcome == "no evidence" for f in report.comparisons if f.scope != "tail")
        assert extract(mill, harness.window(1)).rows == 200


@pytest.mark.faults
@pytest.mark.parametrize("cron", [WEEKLY, DAILY], ids=["weekly", "daily"])
def test_a_model_is_never_promoted_over_itself(cron: str) -> None:
    """Row 36, on the real flights of February to December; even with `min_effect` at its least."""
    made = Counter(report.verdict for report in reports(cron, sigma=0.0, seed=0))
    assert made == {"keep": len(scored_windows(cron))}
    tails = [
        found
        for report in reports(cron, sigma=0.0, seed=0)
        for found in report.comparisons
        if found.scope == "tail"
    ]
    assert len(tails) == len(scored_windows(cron))
    assert {found.estimate.m for found in tails} == {0.0}
    assert {found.outcome for found in tails} == {"failed"}


@pytest.mark.faults
@pytest.mark.parametrize(
    ("cron", "windows", "seeds", "most"),
    [(WEEKLY, 47, 12, 0.06), (DAILY, 334, 3, 0.25)],
    ids=["weekly", "daily"],
)
def test_a_noisy_twin_of_the_champion_is_promoted_in_few_windows(
    cron: str, windows: int, seeds: int, most: float
) -> None:
    """Row 36: each candidate is the champion of its time with noise of .02 on every row's log odds.

    The limits of the entry test: it asks for `min_effect` = .1 % of the champion's loss on the
    tail, the last fifth of a window, of at least 30 rows, and for no significance. By chance a
    twin gains that on a small tail (a day's 180 flights) far more often than on a large one (a
    week's 1,250): that is what the guard behind it is for.
    """
    assert len(scored_windows(cron)) == windows
    made = [verdict_counts(cron, 0.02, seed) for seed in range(seeds)]
    shares = [each["promote"] / windows for each in made]
    back = sum(each["rollback"] for each in made)
    print(
        f"promoted {mean(shares):.1%} ({min(shares):.1%} to {max(shares):.1%}), {back} rolled back"
    )
    assert 0 < mean(shares) <= most
