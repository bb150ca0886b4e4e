"""The tests can fail: each mutation of the code fails the tests that its patch names."""

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from support.processes.required_tools import require_tools

pytestmark = pytest.mark.faults

ROOT = Path(__file__).parents[2]
MUTATIONS = ROOT / "assets_tests" / "mutations"
TREE = ("platform/tidemill", "airflow_bridge", "assets_tests", "deploy", "pyproject.toml")
"""The parts of the repository that the tests need."""
PATCH_ERRORS = re.compile(r"\b(Import|ModuleNotFound|Name|Syntax|Attribute)Error\b")
"""Failures that mean that a patch no longer fits the code."""


@dataclass(frozen=True)
class Mutation:
    """A patch, the faults whose handling it breaks, the tests that must fail, and needed tools."""

    patch: Path
    faults: tuple[str, ...]
    failing_tests: tuple[str, ...]
    tools: tuple[str, ...] = ()


def parse_mutation(patch: Path) -> Mutation:
    """Parse the header of a patch: a sentence, `Row: N, …` with the numbers of faults, then lines
    `Red: TEST` and `Needs: PROGRAM`."""
    header = patch.read_text().partition("\n---")[0]
    faults = re.findall(r"^Row: (.+)$", header, re.MULTILINE)
    failing_tests = re.findall(r"^Red: (.+)$", header, re.MULTILINE)
    assert len(faults) == 1, f"{patch.name} names no fault"
    assert failing_tests, f"{patch.name} names no test"
    tools = re.findall(r"^Needs: (.+)$", header, re.MULTILINE)
    return Mutation(patch, tuple(faults[0].split(", ")), tuple(failing_tests), tuple(tools))


ALL_MUTATIONS = [parse_mutation(patch) for patch in sorted(MUTATIONS.glob("*.patch"))]


def run_pytest(tree: Path, *args: str) -> subprocess.CompletedProcess[str]:
    """Run pytest on a copy of the tree, isolated from the modules of this one."""
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
        source, destination = ROOT / name, tmp_path / "tree" / name
        destination.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, destination)
        else:
            shutil.copy2(source, destination)
    return tmp_path / "tree"


def apply_patch(patch: Path, tree: Path) -> None:
    """Apply a patch to the tree; fails if the patch no longer fits."""
    env = {**os.environ, "GIT_CEILING_DIRECTORIES": str(tree.parent)}
    for check in (["--check"], []):
        result = subprocess.run(
            ["git", "apply", *check, str(patch)],
            cwd=tree, env=env, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert result.returncode == 0, f"refresh the patch {patch.name}: {result.stderr}"


def test_every_test_named_by_a_mutation_exists(tree: Path) -> None:
    """Whether they pass is checked by the regular test runs."""
    named = sorted({test for mutation in ALL_MUTATIONS for test in mutation.failing_tests})
    assert named
    result = run_pytest(tree, "--collect-only", *named)
    assert result.returncode == 0, result.stdout
    assert set(named) <= set(result.stdout.splitlines())


@pytest.mark.parametrize("mutation", ALL_MUTATIONS, ids=lambda mutation: mutation.patch.stem)
def test_a_mutation_fails_its_tests(mutation: Mutation, tree: Path) -> None:
    require_tools(*mutation.tools)
    apply_patch(mutation.patch, tree)
    result = run_pytest(tree, *mutation.failing_tests)
    outcome = "passed" if result.returncode == 0 else f"ended with exit code {result.returncode}"
    assert result.returncode == 1, f"the tests {outcome}:\n{result.stdout}{result.stderr}"
    failures = dict(re.findall(r"^FAILED (\S+)(.*)$", result.stdout, re.MULTILINE))
    assert failures.keys() == set(mutation.failing_tests), result.stdout
    for test, reason in failures.items():
        assert not PATCH_ERRORS.search(reason), f"{test} failed because of a broken patch:{reason}"
