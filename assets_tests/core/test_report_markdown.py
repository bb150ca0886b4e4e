"""A report in Markdown: what it shows, and that nothing in it is live."""

import html
import re
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from core.report_cases import (
    first_report,
    judge_windows,
)
from tidemill.core import scoring
from tidemill.core.report_markdown import escape, render_markdown

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
