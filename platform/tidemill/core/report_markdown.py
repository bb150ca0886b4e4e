"""A report as Markdown; values that come from a topic are escaped."""

import string
import unicodedata
from collections.abc import Iterable, Sequence

from tidemill.core.report_records import Report

_MAX_VALUE_CHARACTERS = 80  # longer values from a topic are truncated
_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#39;"}

_ROLES = ("initial", "baseline", "champion", "challenger", "candidate", "holdout")
_COMPARISON_HEADERS = (
    "on",
    "reference",
    "challenger",
    "n",
    "G",
    "m/L",
    "m",
    "se",
    "t",
    "worse below",
    "better above",
    "outcome",
)

Cell = str | int | float | None


def escape(text: str) -> str:
    """Text that Markdown and HTML readers show as plain text, on one line.

    Punctuation is escaped; control and format characters (direction marks too) are shown as �;
    text of more than 80 characters is truncated with an ellipsis.
    """
    shown = text if len(text) <= _MAX_VALUE_CHARACTERS else text[: _MAX_VALUE_CHARACTERS - 1] + "…"
    return "".join(map(_escape_character, shown))


def render_markdown(report: Report) -> str:
    """The whole report: verdict and reasons first, then the numbers behind them."""
    # A model's name and a window's key contain no characters that are special in Markdown.
    title = f"# {report.model}, {report.window}: {report.verdict}"
    reasons = "\n".join(f"* {_escape_prose(reason)}" for reason in report.reasons)
    parts = [title, reasons, _gate_section(report), _models(report), _comparisons(report)]
    parts += [_champion(report), _slices(report), _cumulative_losses(report), _inputs(report)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _gate_section(report: Report) -> str:
    rows = [
        (
            name,
            snapshot.mode,
            _short_digest(snapshot.champion),
            _short_digest(snapshot.baseline),
            snapshot.pool_size,
        )
        for name, snapshot in (
            ("before", report.previous_state),
            ("at evaluation", report.opening_state),
        )
    ]
    state = report.state
    models = (_short_digest(state.champion), _short_digest(state.baseline))
    rows.append(("from now on", state.mode, *models, len(state.pool)))
    table = _table(("", "mode", "champion", "baseline", "windows in the pool"), rows)
    applied = [
        f"* applied manual {e.kind} to {_short_digest(e.digest)} (entry {e.seq})"
        for e in report.entries
    ]
    pending = [f"* {_short_digest(state.pending)} awaits approval"] if state.pending else []
    return "\n\n".join([f"## Gate, policy {escape(report.policy)}", table, *applied, *pending])


def _models(report: Report) -> str:
    rows: list[Sequence[Cell]] = [
        (
            role,
            _short_digest(report.models[role].digest),
            report.models[role].age,
            report.losses.get(role),
        )
        for role in _ordered(report.models)
    ]
    labels = {"prior": "constant prior", "champion_on_tail": "champion, on the tail"}
    labels["holdout_on_tail"] = "holdout fit, on the tail"
    rows += [(text, "", None, report.losses.get(name)) for name, text in labels.items()]
    size = (
        f"{report.rows} rows in {report.clusters} clusters of {report.cluster_length / 1000:g} s, "
        f"{report.tail_rows} in the tail; base rate {_cell(report.base_rate)}."
    )
    times = report.timestamps
    text = (
        f"Timestamps of the window's records: {times.create_time} set by the producer, "
        f"{times.log_append_time} by the broker, {times.not_available} missing."
    )
    return f"## Models\n\n{size}\n{text}\n\n" + _table(("role", "digest", "age", "mean loss"), rows)


def _comparisons(report: Report) -> str:
    rows = [
        (
            c.scope,
            _short_digest(c.pair.reference),
            _short_digest(c.pair.challenger),
            c.estimate.n,
            c.estimate.clusters,
            _percentage(c.gain),
            c.estimate.m,
            c.estimate.se,
            c.estimate.t,
            _thresholds(c.t_below, c.m_below),
            _thresholds(c.t_above, c.m_above),
            c.outcome,
        )
        for c in report.comparisons
    ]
    return "## Comparisons\n\n" + _table(_COMPARISON_HEADERS, rows) if rows else ""


def _champion(report: Report) -> str:
    permutation = report.permutation_check.estimate
    calibration = report.calibration
    alarm = {None: "no evidence", True: "**ALARM: labels may be permuted**", False: "no alarm"}
    lines = [
        "## Champion",
        f"AUC {_cell(report.auc)}; permutation test: loss difference {_cell(permutation.m)}, "
        f"t {_cell(permutation.t)}, {alarm[report.permutation_check.alarm]}.",
    ]
    if calibration is not None:
        predicted = _cell(calibration.predicted)
        observed = _cell(calibration.observed)
        means = f"Mean prediction {predicted}, mean label {observed}"
        lines.append(f"{means}, bias {_cell(calibration.bias)}.")
        rows = [(b.n, b.predicted, b.observed) for b in calibration.bins]
        lines += [_table(("n", "predicted", "observed"), rows)] if rows else []
    return "\n\n".join(lines)


def _slices(report: Report) -> str:
    if not report.slices:
        return ""
    roles = _ordered(report.slices[0].losses)
    rows: list[Sequence[Cell]] = [
        (
            escape(part.field),
            "*missing*" if part.value is None else escape(part.value),
            part.n,
            *(part.losses[role] for role in roles),
        )
        for part in report.slices
    ]
    return "## Mean losses by slice\n\n" + _table(("field", "value", "n", *roles), rows)


def _cumulative_losses(report: Report) -> str:
    n = report.cumulative_losses.rows
    sums = report.cumulative_losses.sums
    rows = [(role, sums[role] / n if n else None) for role in _ordered(sums)]
    heading = f"## Cumulative mean losses, {n} rows\n\n"
    return heading + _table(("always serving the", "mean loss"), rows)


def _inputs(report: Report) -> str:
    inputs = report.inputs
    rows = [
        ("previous report", inputs.previous),
        ("batch", inputs.batch),
        ("candidate", inputs.candidate),
    ]
    rows += [("lineage", report.lineage), ("gate spec", report.state.spec)]
    rows += [(f"ledger entry {entry.seq}", entry.hash) for entry in report.entries]
    shown = [(name, escape(sha) if sha else None) for name, sha in rows]
    return "## Inputs\n\n" + _table(("", "sha256"), shown)


def _ordered(by_role: Iterable[str]) -> list[str]:
    """Roles in the order of display, whatever their order in the record."""
    return [role for role in _ROLES if role in set(by_role)]


def _table(headers: Sequence[str], rows: Iterable[Sequence[Cell]]) -> str:
    """A Markdown table. The caller escapes cells that contain text from outside."""
    lines = [headers, ["---"] * len(headers), *[[_cell(cell) for cell in row] for row in rows]]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _cell(value: Cell) -> str:
    if value is None:
        return "–"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _percentage(value: float | None) -> str:
    return "–" if value is None else f"{value:+.3%}"


def _thresholds(t: float | None, m: float | None) -> str:
    parts = [f"{name} {value:.4g}" for name, value in (("t", t), ("m", m)) if value is not None]
    return ", ".join(parts) or "–"


def _short_digest(digest: str) -> str:
    return escape(digest[:12])


def _escape_prose(reason: str) -> str:
    """The gate's own text: only characters that are special in Markdown or HTML are escaped."""
    return "".join(_escape_character(c) if c in "\\`*_[]<>&|#~" else c for c in reason)


def _escape_character(character: str) -> str:
    if character in _ENTITIES:
        return _ENTITIES[character]
    if character in string.punctuation:
        return "\\" + character
    if character == " " or unicodedata.category(character)[0] not in "CZ":
        return character
    return "�"
