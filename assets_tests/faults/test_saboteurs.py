"""The tests can fail: with each sabotage of the code, the test that is named for it turns red."""

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from required_tools import require_tools

pytestmark = pytest.mark.faults

ROOT = Path(__file__).parents[2]
MUTATIONS = ROOT / "assets_tests" / "saboteurs"
TREE = ("platform/tidemill", "airflow_bridge", "assets_tests", "deploy", "pyproject.toml")
"""What the tests need of the repository."""
BROKEN = re.compile(r"\b(Import|ModuleNotFound|Name|Syntax|Attribute)Error\b")
"""What a patch that fits the code no longer looks like, rather than a sabotage."""


@dataclass(frozen=True)
class Mutation:
    """A patch, the rows of FAULTS that it undoes, the tests that must notice, and what programs
    they need."""

    patch: Path
    rows: tuple[str, ...]
    failing_tests: tuple[str, ...]
    tools: tuple[str, ...] = ()


def parse_mutation(patch: Path) -> Mutation:
    """Read the words above the patch: a sentence, `Row: N, …`, `Red: TEST` as often as due, and
    `Needs: PROGRAM`."""
    header = patch.read_text().partition("\n---")[0]
    rows = re.findall(r"^Row: (.+)$", header, re.MULTILINE)
    failing_tests = re.findall(r"^Red: (.+)$", header, re.MULTILINE)
    assert len(rows) == 1, f"{patch.name} names no row"
    assert failing_tests, f"{patch.name} names no test"
    tools = re.findall(r"^Needs: (.+)$", header, re.MULTILINE)
    return Mutation(patch, tuple(rows[0].split(", ")), tuple(failing_tests), tuple(tools))


ALL_MUTATIONS = [parse_mutation(patch) for patch in sorted(MUTATIONS.glob("*.patch"))]


def run_pytest(tree: Path, *args: str) -> subprocess.CompletedProcess[str]:
    """pytest over a copy of the tree, which no module of this one can reach."""
    code = os.pathsep.join((f"{tree}/platform", f"{tree}/airflow_bridge"))
    env = {**os.environ, "PYTHONPATH": code, "COLUMNS": "400"}
    for name in [name for name in env if name.startswith(("PYTEST_", "COV_", "TIDEMILL_"))]:
        del env[name]
    quiet = ["-q", "--tb=line", "-p", "no:cacheprovider"]
    return subprocess.run(
        [sys.executable, "-m", "pytest", *quiet, *args],
        cwd=tree, env=env, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of the code and its tests."""
    for name in TREE:
        source, to = ROOT / name, tmp_path / "tree" / name
        to.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, to)
        else:
            shutil.copy2(source, to)
    return tmp_path / "tree"


def apply_patch(patch: Path, tree: Path) -> None:
    """Sabotage the tree, or say that the patch no longer fits."""
    env = {**os.environ, "GIT_CEILING_DIRECTORIES": str(tree.parent)}
    for check in (["--check"], []):
        result = subprocess.run(
            ["git", "apply", *check, str(patch)],
            cwd=tree, env=env, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert result.returncode == 0, f"refresh the patch {patch.name}: {result.stderr}"


def test_every_test_that_a_saboteur_names_is_there(tree: Path) -> None:
    """That they pass is what the other runs of the tests are for."""
    named = sorted({test for each in ALL_MUTATIONS for test in each.failing_tests})
    assert named
    found = run_pytest(tree, "--collect-only", *named)
    assert found.returncode == 0, found.stdout
    assert set(named) <= set(found.stdout.splitlines())


@pytest.mark.parametrize("each", ALL_MUTATIONS, ids=lambda each: each.patch.stem)
def test_a_saboteur_turns_its_tests_red(each: Mutation, tree: Path) -> None:
    require_tools(*each.tools)
    apply_patch(each.patch, tree)
    done = run_pytest(tree, *each.failing_tests)
    ended = "passed" if done.returncode == 0 else f"ended with exit code {done.returncode}"
    assert done.returncode == 1, f"the tests {ended}:\n{done.stdout}{done.stderr}"
    told = dict(re.findall(r"^FAILED (\S+)(.*)$", done.stdout, re.MULTILINE))
    assert told.keys() == set(each.failing_tests), done.stdout
    for test, why in told.items():
        assert not BROKEN.search(why), f"{test} found no sabotage but a broken patch:{why}"
