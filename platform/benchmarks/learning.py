"""What learning from windows is worth: a year of real flights against retraining, and the gate.

    .venv/bin/python platform/benchmarks/learning.py [--quick] [--home FOLDER]

The packaged flights model, with no other settings, is taken through the real steps over the
embedded Kafka. Every model is scored on each day before it has learned from it.

* `champion`: the gate's champion, which the day would have been served by (before the day's
  verdict), against the initial model. Judged by all rows of the year.
* `line`: candidate[w-1] on day w. `peer`: learned from scratch, each day anew, from every row
  before day w, by the very settings of the line's own retraining (200 trees at .03, 15 leaves):
  what it learns from is the only difference. Both on every tenth day, by the mean of the days.
* Compute is process CPU seconds a day, one thread, the holdout fit included on both sides: whoever
  retrains each day behind this gate needs a holdout fit each day, too. The line pays for all that
  `update` does (both fits, sample, Parquet, bundles, commits), by the mean of all days of the year;
  the peer for its two fits alone, by the mean of its days: its rows lie decoded in memory.
  `line_cpu_share_of_one_fit` is told beside: the line with its holdout fits, the peer without.
* `larger`: a peer with 300 trees at .05 of 31 leaves, for it has more rows to learn from than the
  line ever sees. It is told and not judged: what those trees gain is no merit of its rows alone.
* Harmful learners and noise are taken to the same gate; their served loss is compared with that of
  the initial model, over all rows of the year.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import polars as pl
from flights_year import Array, Day, Year, through_the_steps
from gate_lines import Learned, Line, Noise, Step, forgetful, hasty, misled, through_gate
from harness import Cpu, Figure, Goal, arguments, finish, say

from tidemill.core import canonical, learner, scoring
from tidemill.core.bundle import Model
from tidemill.core.report import Report
from tidemill.core.spec import ModelSpec
from tidemill.core.spec_sections import BoostingSpec

COMPARE_EVERY_DAYS = 10
NOISE_SIGMA, NOISE_SEEDS = 0.02, 3
HARMFUL: tuple[Step, ...] = (forgetful, misled, hasty)

LARGER_TREES = BoostingSpec(
    num_iterations=300, learning_rate=0.05, num_leaves=31, min_data_in_leaf=100
)

GOALS = (
    Goal("champion_gain", at_least=0.06),
    Goal("line_auc_over_peer", at_least=0.0),
    Goal("line_log_loss_over_peer", at_most=0.0),
    Goal("line_cpu_share_of_peer", at_most=0.08),
    Goal("noise_served_worst", at_most=0.005),
    Goal("harmful_served_worst", at_most=0.021),
    Goal("harmful_newest_least", at_least=0.05),
)


@dataclass(frozen=True)
class Scores:
    """By the mean of the days: AUC, log loss, and CPU seconds of a day's fits and of one."""

    auc: float
    log_loss: float
    cpu: float = float("nan")
    one_fit: float = float("nan")


def main() -> int:
    parser = arguments(__doc__)
    parser.add_argument("--home", type=Path, help="keep the year's Kafka and store in this folder")
    args = parser.parse_args()
    last_key = "2013-02-12" if args.quick else "2013-12-31"
    with TemporaryDirectory(prefix="tidemill-learning-") as scratch:
        home = (args.home or Path(scratch)).absolute()
        with through_the_steps(home, last_key) as year:
            figures = _lineage_figures(year) | _gate_figures(year)
    return finish("learning", figures, GOALS, args.quick)


def _lineage_figures(year: Year) -> dict[str, Figure]:
    """The champion over the year, and the line against its peer."""
    last = year.days[-1].report.running
    by_rows = {role: total / last.rows for role, total in last.sums.items()}
    by_day = {role: _day_mean(year.days, role) for role in ("champion", "initial", "challenger")}
    days = year.days[COMPARE_EVERY_DAYS // 2 :: COMPARE_EVERY_DAYS]
    lineage = _prequential(year, days)
    update = year.spent["update"].seconds / len(year.days)
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
        "line_auc": lineage.auc,
        "line_log_loss": lineage.log_loss,
        "line_cpu_a_day": update,
    }
    peer, larger = (
        _peer(year, days, None, holdout=True),
        _peer(year, days, LARGER_TREES, holdout=False),
    )
    return figures | {
        "peer_auc": peer.auc,
        "peer_log_loss": peer.log_loss,
        "peer_cpu_a_day": peer.cpu,
        "line_auc_over_peer": lineage.auc - peer.auc,
        "line_log_loss_over_peer": lineage.log_loss - peer.log_loss,
        "line_cpu_share_of_peer": update / peer.cpu,
        "line_cpu_share_of_one_fit": update / peer.one_fit,
        "larger_auc": larger.auc,
        "larger_log_loss": larger.log_loss,
        "line_cpu_share_of_larger_one_fit": update / larger.one_fit,
    }


def _day_mean(days: Sequence[Day], role: str) -> float:
    losses = [day.report.losses[role] for day in days]
    return float(np.mean([loss for loss in losses if loss is not None]))


def _prequential(year: Year, days: Sequence[Day]) -> Scores:
    """Each day's parent candidate on that day."""
    return _scores([(day, year.mill.load(day.candidate.parent).predict(day.rows)) for day in days])


def _peer(year: Year, days: Sequence[Day], trees: BoostingSpec | None, *, holdout: bool) -> Scores:
    """What retraining on everything before each day is worth on it, and what it costs."""
    spec, cpu, all_fits, predictions = year.mill.spec, Cpu(), Cpu(), []
    if trees is not None:
        learner_spec = spec.learner.model_copy(update={"retrain": trees})
        spec = spec.model_copy(update={"learner": learner_spec})
    for day in days:
        earlier_rows = [year.history, *(earlier.rows for earlier in year.days[: day.number])]
        rows = pl.concat(earlier_rows)
        with all_fits.measured():
            with cpu.measured():
                model = _fit(spec, rows, day)
            if holdout:
                _fit(spec, rows.head(rows.height - learner.tail_rows(earlier_rows[-1].height)), day)
        predictions.append((day, model.predict(day.rows)))
        if day.number % 50 == COMPARE_EVERY_DAYS // 2:
            say(f"peer {day.window.key}: {rows.height} rows, {cpu.spells[-1]:.1f} CPU s a fit")
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
    """What is served, and what the newest would do, when the candidates are noise or harmful."""
    initial = year.mill.load(year.days[0].candidate.parent)
    spec = year.mill.spec
    figures: dict[str, Figure] = {}
    noise: list[float] = []
    for seed in range(NOISE_SEEDS):
        reports = _run_scenario(year, initial, Noise(initial, NOISE_SIGMA, seed))
        noise.append(_excess_over_initial(reports, "champion"))
        promoted = sum(report.verdict == "promote" for report in reports) / len(reports)
        figures[f"noise_{seed}_promoted"] = promoted
        say(f"noise: {promoted:.1%} promoted, served {noise[-1]:+.2%}")
    served, newest = [], []
    for step in HARMFUL:
        reports = _run_scenario(year, initial, Learned(spec, initial, step))
        served.append(_excess_over_initial(reports, "champion"))
        newest.append(_excess_over_initial(reports, "challenger"))
        figures[f"{step.__name__}_served"] = served[-1]
        figures[f"{step.__name__}_newest"] = newest[-1]
        figures[f"{step.__name__}_newest_log_loss"] = _loss(reports, "challenger")
        say(f"{step.__name__}: served {served[-1]:+.2%}, newest {newest[-1]:+.2%}")
    return figures | {
        "noise_served_worst": max(noise),
        "harmful_served_mean": float(np.mean(served)),
        "harmful_served_worst": max(served),
        "harmful_newest_least": min(newest),
    }


def _run_scenario(year: Year, initial: Model, scenario: Line) -> list[Report]:
    return through_gate(year.mill.spec, initial.digest, year.days, scenario)


def _loss(reports: Sequence[Report], role: str) -> float:
    running = reports[-1].cumulative_losses
    return running.sums[role] / running.rows


def _excess_over_initial(reports: Sequence[Report], role: str) -> float:
    """By how much of the initial model's loss a role's loss is above it."""
    return _loss(reports, role) / _loss(reports, "initial") - 1


if __name__ == "__main__":
    sys.exit(main())
