"""The documentation is complete in the repository, and its generated pages are current."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
REFERENCE = ROOT / "platform" / "docs" / "reference"
OUTSIDE = re.compile(
    r"\b(DESIGN|FAULTS|FIELD-NOTES|REVIEW|NEWCOMER|CASES|ATTACKS)(\.md|, [A-Z]| \d)"
    r"|\bRows? \d+\b(?! of)"
)
"""References to documents that are not in this repository."""


def tracked(*patterns: str) -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", *patterns],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return [ROOT / name for name in listed.stdout.splitlines() if (ROOT / name).is_file()]


def test_generated_reference_pages_are_current(tmp_path: Path) -> None:
    script = ROOT / "platform" / "reference_pages.py"
    subprocess.run([sys.executable, str(script), str(tmp_path)], check=True, timeout=120)
    generated = {page.name: page.read_text() for page in tmp_path.iterdir()}
    assert len(generated) == 4
    committed = {name: (REFERENCE / name).read_text() for name in generated}
    assert committed == generated, "run `make docs`"


@pytest.mark.parametrize("pattern", ["*.py", "*.md", "*.yaml", "*.toml", "*.sh", "Makefile"])
def test_no_file_refers_to_a_document_outside_the_repository(pattern: str) -> None:
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in tracked(pattern)
        if path != Path(__file__)
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if OUTSIDE.search(line)
    ]
    assert not found, "\n".join(found)


def test_readme_is_short_and_names_the_commands() -> None:
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 120
    for command in ("make demo", "make up", "make down", "make test"):
        assert command in text


def test_every_relative_link_outside_the_site_resolves() -> None:
    """The site's own links are checked by its strict build in `make lint`."""
    broken = [
        f"{path.relative_to(ROOT)}: {target}"
        for path in tracked("*.md")
        if "platform/docs" not in path.as_posix()
        for target in re.findall(r"\]\(([^)#\s]+)", path.read_text())
        if "://" not in target and not (path.parent / target).exists()
    ]
    assert not broken, "\n".join(broken)
