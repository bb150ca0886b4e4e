"""A summary of a range of windows: counts, verdicts and losses."""

from collections import Counter
from dataclasses import dataclass

from tidemill.core.errors import PredecessorMissing
from tidemill.core.windows import Window
from tidemill.cycle.context import ModelContext


@dataclass(frozen=True)
class Summary:
    """The windows `first` to `last` of one model.

    `verdicts` counts reports by verdict, `reasons` maps each window with a promotion or a rollback
    to its reason. `losses` are means over all rows of the range: of the initial model, and of the
    champion and the newest candidate at the time.
    """

    model: str
    first: str
    last: str
    windows: int
    rows: int
    rejected: int
    late: int
    verdicts: dict[str, int]
    reasons: dict[str, str]
    losses: dict[str, float]
    champion: str
    deployments: int


def summarize(ctx: ModelContext, first: Window, last: Window) -> Summary:
    """Summarize a range of windows. Raises `PredecessorMissing` unless all have reports."""
    calendar = ctx.spec.calendar
    repository = ctx.repository
    counts: Counter[str] = Counter()
    verdicts: Counter[str] = Counter({"promote": 0, "keep": 0, "rollback": 0})
    reasons: dict[str, str] = {}
    sums = {"initial": 0.0, "champion": 0.0, "challenger": 0.0}
    champion = ""
    for window in calendar.between(first, last):
        manifest = repository.manifest(window.key)
        report = repository.report(window.key)
        if manifest is None or report is None:
            raise PredecessorMissing(
                f"Window {window.key} of model {ctx.model} has no evaluation report.",
                f"Run `tidemill backfill {ctx.model} --from {window.key} --to {last.key}`.",
            )
        counts.update(windows=1, rows=manifest.rows, late=manifest.late, rejected=manifest.rejected)
        verdicts[report.verdict] += 1
        if report.verdict != "keep":
            test = report.comparisons[-1] if report.comparisons else "no test"
            reason = report.reasons[0] if report.verdict == "rollback" else test
            reasons[window.key] = f"{report.verdict}: {reason}"
        for role in sums:
            sums[role] += (report.losses[role] or 0.0) * report.rows
        champion = report.state.champion
    return Summary(
        model=ctx.model,
        first=first.key,
        last=last.key,
        windows=counts["windows"],
        rows=counts["rows"],
        rejected=counts["rejected"],
        late=counts["late"],
        verdicts=dict(verdicts),
        reasons=reasons,
        losses={role: total / max(1, counts["rows"]) for role, total in sums.items()},
        champion=champion,
        deployments=len(ctx.chain().entries),
    )
