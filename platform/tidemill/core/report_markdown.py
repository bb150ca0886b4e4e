"""A report as people read it, in Markdown; what came from a topic is escaped."""

import string
import unicodedata
from collections.abc import Iterable, Sequence

from tidemill.core.report_records import Report

_LONGEST = 80  # characters of a topic's value that are shown
_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#39;"}

_ROLES = ("initial", "baseline", "champion", "challenger", "candidate", "holdout")

Cell = str | int | float | None


def escape(text: str) -> str:
    """Text that no Markdown or HTML reader takes for anything but text, on one line.

    Punctuation is escaped, control and format characters (direction marks too) are shown as �,
    and beyond 80 characters the text ends with an ellipsis.
    """
    shown = text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"
    return "".join(map(_escaped, shown))


def markdown(report: Report) -> str:
    """The whole report: verdict and reasons first, then what they rest on."""
    # A model's name and a window's key have no character that means anything in Markdown.
    title = f"# {report.model}, {report.window}: {report.verdict.replace('_', ' ')}"
    reasons = "\n".join(f"* {_prose(reason)}" for reason in report.reasons)
    parts = [title, reasons, _places(report), _models(report), _comparisons(report)]
    parts += [_champion(report), _slices(report), _running(report), _inputs(report)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _places(report: Report) -> str:
    rows = [
        (name, seats.mode, _short(seats.champion), _short(seats.baseline), seats.pooled)
        for name, seats in (("before", report.state_before), ("judged", report.judged))
    ]
    after = report.state
    now = (_short(after.champion), _short(after.baseline), len(after.pool))
    rows.append(("from now on", after.mode, *now))
    table = _table(("", "mode", "champion", "baseline", "windows in the pool"), rows)
    taken = [
        f"* took a person's {e.kind} to {_short(e.digest)} (entry {e.seq})" for e in report.entries
    ]
    pending = [f"* {_short(after.pending)} awaits approval"] if after.pending else []
    return "\n\n".join([f"## Gate, policy {escape(report.policy)}", table, *taken, *pending])


def _models(report: Report) -> str:
    rows: list[Sequence[Cell]] = [
        (role, _short(report.models[role].digest), report.models[role].age, report.losses.get(role))
        for role in _ordered(report.models)
    ]
    named = {"prior": "constant prior", "champion_on_tail": "champion, on the tail"}
    named["holdout_on_tail"] = "holdout fit, on the tail"
    rows += [(told, "", None, report.losses.get(name)) for name, told in named.items()]
    size = (
        f"{report.rows} rows in {report.clusters} clusters of {report.cluster_length / 1000:g} s, "
        f"{report.tail_rows} in the tail; base rate {_cell(report.base_rate)}."
    )
    times = report.timestamps
    told = (
        f"Of the window's records {times.created} carry their producer's time, {times.appended} "
        f"the broker's, {times.none} none."
    )
    return f"## Models\n\n{size}\n{told}\n\n" + _table(("role", "digest", "age", "mean loss"), rows)


def _comparisons(report: Report) -> str:
    heads = ("on", "reference", "challenger", "n", "G", "m/L", "m", "se", "t", "worse below",
             "better above", "outcome")  # fmt: skip
    rows = [
        (
            c.scope, _short(c.pair.reference), _short(c.pair.challenger),
            c.estimate.n, c.estimate.clusters, _share(c.gain), c.estimate.m, c.estimate.se,
            c.estimate.t, _both(c.t_below, c.m_below), _both(c.t_above, c.m_above), c.outcome,
        )
        for c in report.comparisons
    ]  # fmt: skip
    return "## Comparisons\n\n" + _table(heads, rows) if rows else ""


def _champion(report: Report) -> str:
    skill, found = report.pairing.skill, report.calibration
    alarm = {None: "no evidence", True: "**ALARM: labels may be permuted**", False: "no alarm"}
    lines = [
        "## Champion",
        f"AUC {_cell(report.auc)}; pairing skill {_cell(skill.m)}, t {_cell(skill.t)}: "
        f"{alarm[report.pairing.alarm]}.",
    ]
    if found is not None:
        means = f"Mean prediction {_cell(found.predicted)}, mean label {_cell(found.observed)}"
        lines.append(f"{means}, bias {_cell(found.bias)}.")
        rows = [(b.n, b.predicted, b.observed) for b in found.bins]
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


def _running(report: Report) -> str:
    n, sums = report.running.rows, report.running.sums
    rows = [(role, sums[role] / n if n else None) for role in _ordered(sums)]
    told = f"## Running mean losses, {n} rows so far\n\n"
    return told + _table(("always serving the", "mean loss"), rows)


def _inputs(report: Report) -> str:
    made = report.inputs
    rows = [("report before", made.previous), ("batch", made.batch), ("candidate", made.candidate)]
    rows += [("line", report.line), ("gate spec", report.state.spec)]
    rows += [(f"ledger entry {entry.seq}", entry.hash) for entry in report.entries]
    shown = [(name, escape(sha) if sha else None) for name, sha in rows]
    return "## Made from\n\n" + _table(("", "sha256"), shown)


def _ordered(by_role: Iterable[str]) -> list[str]:
    """Roles in the order in which they are read, however a record keeps them."""
    return [role for role in _ROLES if role in set(by_role)]


def _table(heads: Sequence[str], rows: Iterable[Sequence[Cell]]) -> str:
    """Cells are escaped by the caller where they are not the program's own words."""
    lines = [heads, ["---"] * len(heads), *[[_cell(cell) for cell in row] for row in rows]]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _cell(value: Cell) -> str:
    if value is None:
        return "–"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:+.3%}"


def _both(t: float | None, m: float | None) -> str:
    parts = [f"{name} {value:.4g}" for name, value in (("t", t), ("m", m)) if value is not None]
    return ", ".join(parts) or "–"


def _short(digest: str) -> str:
    return escape(digest[:12])


def _prose(reason: str) -> str:
    """The gate's own words; only what Markdown or HTML could read otherwise is escaped."""
    return "".join(_escaped(c) if c in "\\`*_[]<>&|#~" else c for c in reason)


def _escaped(character: str) -> str:
    if character in _ENTITIES:
        return _ENTITIES[character]
    if character in string.punctuation:
        return "\\" + character
    if character == " " or unicodedata.category(character)[0] not in "CZ":
        return character
    return "�"
