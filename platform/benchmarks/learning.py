"""The value of learning window by window: a year of real flights against retraining, and the gate.

    .venv/bin/python platform/benchmarks/learning.py [--quick] [--home FOLDER]

The packaged flights model, with default settings, is processed by the real steps on the embedded
Kafka. Every model is scored on each day before it learns from that day.

* `champion`: the gate's champion that would have served the day (before the day's verdict), against
  the initial model, over all rows of the year.
* `lineage`: candidate[w-1] on day w. `peer`: learned from scratch for each day w, from all rows
  before it, with the settings of the lineage's own retraining (200 trees at .03, 15 leaves), so
  that the training rows are the only difference. Both on every tenth day; the mean of the days.
* Compute is process CPU seconds per day, one thread, including the holdout fit on both sides:
  retraining every day behind this gate needs a holdout fit every day, too. The lineage's costs are
  all of `update` (both fits, sample, Parquet, bundles, commits), as the mean of all days of the
  year; the peer's are only its two fits, as the mean of its days, on rows decoded in memory.
  `lineage_cpu_share_of_one_fit` is reported, too: the lineage with its holdout fits, the peer
  without.
* `larger`: a peer with 300 trees at .05 and 31 leaves, since it has more rows to learn from than
  the lineage. It is reported, not judged: its gain is not due to its rows alone.
* Harmful learners and noise pass through the same gate. Their served loss is compared with that of
  the initial model, over all rows of the year.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import polars as pl
from flights_year import Array, Day, Year, run_year
from gate_scenarios import (
    FitStep,
    LearnerScenario,
    NoiseScenario,
    Scenario,
    high_learning_rate,
    no_replay,
    permuted_labels,
    run_through_gate,
)
from harness import CpuTimer, Figure, Goal, argument_parser, log, report_results

from tidemill.core import canonical, learner, scoring
from tidemill.core.bundle import Model
from tidemill.core.report_records import Report
from tidemill.core.spec import ModelSpec
from tidemill.core.spec_sections import BoostingSpec

COMPARE_EVERY_DAYS = 10
NOISE_SIGMA, NOISE_SEEDS = 0.02, 3
HARMFUL: tuple[FitStep, ...] = (no_replay, permuted_labels, high_learning_rate)

LARGER_TREES = BoostingSpec(
    num_iterations=300, learning_rate=0.05, num_leaves=31, min_data_in_leaf=100
)

GOALS = (
    Goal("champion_gain", at_least=0.06),
    Goal("lineage_auc_over_peer", at_least=0.0),
    Goal("lineage_log_loss_over_peer", at_most=0.0),
    Goal("lineage_cpu_share_of_peer", at_most=0.08),
    Goal("noise_served_worst", at_most=0.005),
    Goal("harmful_served_worst", at_most=0.021),
    Goal("harmful_newest_least", at_least=0.05),
)


@dataclass(frozen=True)
class Scores:
    """Means over the days: AUC, log loss, CPU seconds of all fits of a day and of one fit."""

    auc: float
    log_loss: float
    cpu: float = float("nan")
    one_fit: float = float("nan")


def main() -> int:
    parser = argument_parser(__doc__)
    parser.add_argument("--home", type=Path, help="store the year's Kafka and store in this folder")
    args = parser.parse_args()
    last_key = "2013-02-12" if args.quick else "2013-12-31"
    with TemporaryDirectory(prefix="tidemill-learning-") as scratch:
        home = (args.home or Path(scratch)).absolute()
        with run_year(home, last_key) as year:
            figures = _lineage_figures(year) | _gate_figures(year)
    return report_results("learning", figures, GOALS, args.quick)


def _lineage_figures(year: Year) -> dict[str, Figure]:
    """The champion over the year, and the lineage against its peers."""
    last = year.days[-1].report.cumulative_losses
    by_rows = {role: total / last.rows for role, total in last.sums.items()}
    by_day = {role: _day_mean(year.days, role) for role in ("champion", "initial", "challenger")}
    days = year.days[COMPARE_EVERY_DAYS // 2 :: COMPARE_EVERY_DAYS]
    lineage = _prequential(year, days)
    update = year.cpu_by_step["update"].seconds / len(year.days)
    figures: dict[str, Figure] = {
        "windows": len(year.days),
        "rows": last.rows,
        "champion_log_loss": by_rows["champion"],
        "initial_log_loss": by_rows["initial"],
        "newest_log_loss": by_rows["challenger"],
        "champion_gain": 1 - by_rows["champion"] / by_rows["initial"],
        "champion_gain_by_day": 1 - by_day["champion"] / by_day["initial"],
        "newest_gain": 1 - by_rows["challenger"] / by_rows["initial"],
        "compared_days": len(days),
        "lineage_auc": lineage.auc,
        "lineage_log_loss": lineage.log_loss,
        "lineage_cpu_per_day": update,
    }
    peer, larger = (
        _peer(year, days, None, holdout=True),
        _peer(year, days, LARGER_TREES, holdout=False),
    )
    return figures | {
        "peer_auc": peer.auc,
        "peer_log_loss": peer.log_loss,
        "peer_cpu_per_day": peer.cpu,
        "lineage_auc_over_peer": lineage.auc - peer.auc,
        "lineage_log_loss_over_peer": lineage.log_loss - peer.log_loss,
        "lineage_cpu_share_of_peer": update / peer.cpu,
        "lineage_cpu_share_of_one_fit": update / peer.one_fit,
        "larger_auc": larger.auc,
        "larger_log_loss": larger.log_loss,
        "lineage_cpu_share_of_larger_one_fit": update / larger.one_fit,
    }


def _day_mean(days: Sequence[Day], role: str) -> float:
    losses = [day.report.losses[role] for day in days]
    return float(np.mean([loss for loss in losses if loss is not None]))


def _prequential(year: Year, days: Sequence[Day]) -> Scores:
    """The scores of each day's parent candidate on that day."""
    return _scores([(day, year.ctx.load(day.candidate.parent).predict(day.rows)) for day in days])


def _peer(year: Year, days: Sequence[Day], trees: BoostingSpec | None, *, holdout: bool) -> Scores:
    """The scores and costs of retraining on all rows before each day."""
    spec, cpu, all_fits, predictions = year.ctx.spec, CpuTimer(), CpuTimer(), []
    if trees is not None:
        learner_spec = spec.learner.model_copy(update={"retrain": trees})
        spec = spec.model_copy(update={"learner": learner_spec})
    for day in days:
        earlier_rows = [year.history, *(earlier.rows for earlier in year.days[: day.number])]
        rows = pl.concat(earlier_rows)
        with all_fits.measure():
            with cpu.measure():
                model = _fit(spec, rows, day)
            if holdout:
                _fit(spec, rows.head(rows.height - learner.tail_rows(earlier_rows[-1].height)), day)
        predictions.append((day, model.predict(day.rows)))
        if day.number % 50 == COMPARE_EVERY_DAYS // 2:
            log(f"peer {day.window.key}: {rows.height} rows, {cpu.intervals[-1]:.1f} CPU s per fit")
    return replace(
        _scores(predictions), cpu=all_fits.seconds / len(days), one_fit=cpu.seconds / len(days)
    )


def _fit(spec: ModelSpec, rows: pl.DataFrame, day: Day) -> Model:
    bundle = learner.fit(
        spec, rows, parent=None, continue_=False, golden=rows.tail(50), window=None,
        seed=day.candidate.seed, num_threads=1,
    )  # fmt: skip
    return Model.load(bundle, canonical.digest(bundle), None)


def _scores(predictions: Sequence[tuple[Day, Array]]) -> Scores:
    aucs = [scoring.auc(day.label, p) for day, p in predictions]
    losses = [scoring.row_losses("binary", day.label, p, {}).mean() for day, p in predictions]
    return Scores(float(np.mean([a for a in aucs if a is not None])), float(np.mean(losses)))


def _gate_figures(year: Year) -> dict[str, Figure]:
    """The losses of the served and of the newest models if candidates are noise or harmful."""
    initial = year.ctx.load(year.days[0].candidate.parent)
    spec = year.ctx.spec
    figures: dict[str, Figure] = {}
    noise: list[float] = []
    for seed in range(NOISE_SEEDS):
        reports = _run_scenario(year, initial, NoiseScenario(initial, NOISE_SIGMA, seed))
        noise.append(_excess_over_initial(reports, "champion"))
        promoted = sum(report.verdict == "promote" for report in reports) / len(reports)
        figures[f"noise_{seed}_promoted"] = promoted
        log(f"noise: {promoted:.1%} promoted, served {noise[-1]:+.2%}")
    served, newest = [], []
    for step in HARMFUL:
        reports = _run_scenario(year, initial, LearnerScenario(spec, initial, step))
        served.append(_excess_over_initial(reports, "champion"))
        newest.append(_excess_over_initial(reports, "challenger"))
        figures[f"{step.__name__}_served"] = served[-1]
        figures[f"{step.__name__}_newest"] = newest[-1]
        figures[f"{step.__name__}_newest_log_loss"] = _loss(reports, "challenger")
        log(f"{step.__name__}: served {served[-1]:+.2%}, newest {newest[-1]:+.2%}")
    return figures | {
        "noise_served_worst": max(noise),
        "harmful_served_mean": float(np.mean(served)),
        "harmful_served_worst": max(served),
        "harmful_newest_least": min(newest),
    }


def _run_scenario(year: Year, initial: Model, scenario: Scenario) -> list[Report]:
    return run_through_gate(year.ctx.spec, initial.digest, year.days, scenario)


def _loss(reports: Sequence[Report], role: str) -> float:
    cumulative = reports[-1].cumulative_losses
    return cumulative.sums[role] / cumulative.rows


def _excess_over_initial(reports: Sequence[Report], role: str) -> float:
    """The relative excess of a role's loss over the initial model's."""
    return _loss(reports, role) / _loss(reports, "initial") - 1


if __name__ == "__main__":
    sys.exit(main())
