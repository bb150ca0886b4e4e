"""Without evidence the gate reports so, and noise is not taken for a better model."""

import json
from collections import Counter
from statistics import mean

import polars as pl
import pytest

from faults.noise_candidates import DAILY, WEEKLY, reports, scored_windows, verdict_counts
from support.models import oracle
from support.models.harness import MINUTE, START, ModelHarness, events, run_window, run_windows
from tidemill.core.report_records import Report
from tidemill.cycle.context import ModelContext
from tidemill.cycle.steps.extract import extract
from tidemill.cycle.steps.initial import initial


def load_report(ctx: ModelContext, harness: ModelHarness, number: int) -> Report:
    report = ctx.repository.report(harness.window(number).key)
    assert report is not None
    return report


def test_a_historical_row_whose_label_is_nan_is_rejected(harness: ModelHarness) -> None:
    """Fault 36: JSON has no NaN, but a file with historical data can have it."""
    rows = [
        json.loads(value) | {"timestamp": timestamp}
        for n in (-3, -2, -1)
        for timestamp, value in events(n)
    ]
    history = pl.DataFrame(rows).with_columns(pl.col("bought").cast(pl.Float64))
    bad = pl.int_range(pl.len()) % 50 == 7
    damaged = history.with_columns(bought=pl.when(bad).then(float("nan")).otherwise("bought"))
    harness.define(initial={"file": "history.parquet", "time_column": "timestamp"})
    damaged.write_parquet(harness.home / "models" / harness.model / "history.parquet")
    harness.produce_windows(0, 2)
    with harness.open_model() as ctx:
        run_windows(ctx, 0, 1)
        manifest = ctx.repository.manifest("initial")
        assert manifest is not None
        assert (manifest.rows, manifest.rejected) == (588, 12)
        assert set(manifest.reasons) == {"`bought`: expected number or boolean, got null"}
    oracle.assert_consistent(harness)


def test_a_window_of_one_class_is_judged_without_auc(harness: ModelHarness) -> None:
    """Fault 36: no error, and no invented AUC of 0.5."""
    harness.produce_windows(-3, 0)
    for partition in range(2):
        sold_out = [(timestamp, json.dumps(json.loads(value) | {"bought": False}).encode())
                    for timestamp, value in events(1)[partition::2]]  # fmt: skip
        harness.produce(partition, sold_out)
    harness.produce_windows(2, 3)
    with harness.open_model() as ctx:
        run_windows(ctx, 0, 2)
        report = load_report(ctx, harness, 1)
        assert (report.base_rate, report.auc, report.rows) == (0.0, None, 200)
        assert report.losses["prior"] is not None
        assert report.calibration is not None
    oracle.assert_consistent(harness)


def test_too_few_rows_are_no_evidence_and_change_no_model(harness: ModelHarness) -> None:
    """Fault 36: no holdout fit below 150 rows, no verdict of the guard below `min_rows`."""
    harness.define(gate={"min_rows": 250})
    harness.produce_windows(-3, 0)
    for number, count in ((1, 149), (2, 20), (3, 1)):
        harness.produce(0, events(number)[:count])
        harness.produce(1, [])
    harness.produce_windows(4, 5)
    with harness.open_model() as ctx:
        run_windows(ctx, 0, 4)
        first = load_report(ctx, harness, 0)
        for number in (1, 2, 3):
            report = load_report(ctx, harness, number)
            assert report.verdict == "keep"
            assert report.state.champion == first.state.champion
            assert report.reasons[-1] == "no holdout fit: too few rows to learn and judge on"
            outcomes = [
                comparison.outcome
                for comparison in report.comparisons
                if comparison.scope == "window"
            ]
            assert outcomes in ([], ["no evidence"])
    oracle.assert_consistent(harness)


def test_few_clusters_or_equal_gains_are_no_evidence_for_the_guard(harness: ModelHarness) -> None:
    """Fault 36: 200 rows with the same timestamp are one cluster, which has no variance."""
    harness.define(gate={"policy": "always", "min_rows": 50})
    harness.produce_windows(-3, 0)
    harness.produce(0, [(START + 6 * MINUTE, value) for _, value in events(1)])
    harness.produce_windows(2, 3)
    with harness.open_model() as ctx:
        initial(ctx)
        run_window(ctx, 0)
    harness.define(gate={"policy": "guarded", "min_rows": 50})
    with harness.open_model() as ctx:
        run_window(ctx, 1)
        report = load_report(ctx, harness, 1)
        assert (report.rows, report.clusters) == (200, 1)
        assert report.permutation_check.alarm is None
        assert all(
            comparison.outcome == "no evidence"
            for comparison in report.comparisons
            if comparison.scope != "tail"
        )
        assert extract(ctx, harness.window(1)).rows == 200


@pytest.mark.faults
@pytest.mark.parametrize("cron", [WEEKLY, DAILY], ids=["weekly", "daily"])
def test_a_model_is_never_promoted_over_itself(cron: str) -> None:
    """Fault 36, on the real flights of February to December, however small `min_effect` is."""
    verdicts = Counter(report.verdict for report in reports(cron, sigma=0.0, seed=0))
    assert verdicts == {"keep": len(scored_windows(cron))}
    tails = [
        comparison
        for report in reports(cron, sigma=0.0, seed=0)
        for comparison in report.comparisons
        if comparison.scope == "tail"
    ]
    assert len(tails) == len(scored_windows(cron))
    assert {comparison.estimate.m for comparison in tails} == {0.0}
    assert {comparison.outcome for comparison in tails} == {"failed"}


@pytest.mark.faults
@pytest.mark.parametrize(
    ("cron", "windows", "seeds", "max_share"),
    [(WEEKLY, 47, 12, 0.06), (DAILY, 334, 3, 0.25)],
    ids=["weekly", "daily"],
)
def test_a_noisy_twin_of_the_champion_is_promoted_in_few_windows(
    cron: str, windows: int, seeds: int, max_share: float
) -> None:
    """Fault 36: each candidate is the current champion plus noise of 0.02 on each row's log odds.

    This shows the limits of the entry test. It requires a gain of `min_effect` = 0.1 % of the
    champion's loss on the tail, the last fifth of a window, of at least 30 rows, but no
    significance. A noisy twin reaches that by chance far more often on a small tail (180 flights of
    a day) than on a large one (1,250 of a week), which is why the guard follows.
    """
    assert len(scored_windows(cron)) == windows
    counts = [verdict_counts(cron, 0.02, seed) for seed in range(seeds)]
    shares = [count["promote"] / windows for count in counts]
    rollbacks = sum(count["rollback"] for count in counts)
    print(
        f"promoted {mean(shares):.1%} ({min(shares):.1%} to {max(shares):.1%}), "
        f"{rollbacks} rolled back"
    )
    assert 0 < mean(shares) <= max_share
