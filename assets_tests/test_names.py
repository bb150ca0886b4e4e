"""The words that no identifier of the repository uses."""

import ast
import subprocess
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]

BANNED = {
    *("told", "begun", "bury"),  # codespell:ignore
    *("made", "asked", "said", "drawn", "wanted", "standing", "patience"),
    *("mill", "mills", "GLANCE", "_LOOK", "_PAUSE", "_PATIENCE"),
}
"""Words without a standard meaning; use the term of the field (see the glossary)."""


def tracked_modules() -> list[Path]:
    folders = ("platform", "airflow_bridge", "assets_tests")
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--", *folders],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    paths = [ROOT / name for name in listing.stdout.split("\0") if name.endswith(".py")]
    return [path for path in paths if path.exists()]


def identifiers(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and name of each name, attribute, keyword, function, class and import."""
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name) | ast.Attribute(attr=name) | ast.keyword(arg=str(name)):
                yield node.lineno, name
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                yield node.lineno, name
            case ast.ClassDef(name=name) | ast.ExceptHandler(name=str(name)):
                yield node.lineno, name
            case ast.arg(arg=name):
                yield node.lineno, "at (parameter)" if name == "at" else name
            case ast.alias(name=name, asname=alias):
                yield node.lineno, alias or name.rpartition(".")[2]
            case ast.MatchAs(name=str(name)) | ast.MatchStar(name=str(name)):
                yield node.lineno, name


def is_banned(name: str) -> bool:
    return name in BANNED or name.endswith("_hands") or name == "at (parameter)"


def test_no_identifier_is_a_banned_word() -> None:
    paths = tracked_modules()
    assert paths
    found = [f"{path.relative_to(ROOT)}" for path in paths if is_banned(path.stem)]
    for path in paths:
        names = identifiers(ast.parse(path.read_text()))
        found += [f"{path.relative_to(ROOT)}:{line}: {n}" for line, n in names if is_banned(n)]
    assert not found, "\n".join(sorted(found))
