"""The bridge installs into a new environment of Airflow, without Dagster and tidemill."""

import subprocess
import sys
from pathlib import Path
from shutil import which

import pytest

from support.processes.commands import clean_env

ROOT = Path(__file__).parents[2]
ASSETS_TESTS = ROOT / "assets_tests"
UNIT = ASSETS_TESTS / "bridge" / "unit"


def run_command(*command: str, cwd: Path, timeout: float = 900) -> str:
    result = subprocess.run(
        command,
        cwd=cwd,
        env=clean_env({"AIRFLOW_HOME": str(cwd / "airflow")}),
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def uv() -> str:
    """As the Makefile finds it."""
    return which("uv") or str(ROOT / ".uv" / "bin" / "uv")


@pytest.mark.faults
def test_the_unit_tests_of_the_bridge_pass_with_only_airflow(
    tmp_path: Path,
) -> None:
    python = str(tmp_path / "venv" / "bin" / "python")
    run_command(
        uv(), "build", "--wheel", "--out-dir", str(tmp_path), str(ROOT / "airflow_bridge"), cwd=ROOT
    )
    (wheel,) = tmp_path.glob("tidemill_airflow-*.whl")
    locked = run_command(
        uv(), "export", "--locked", "--no-hashes", "--no-emit-workspace", "--package",
        "tidemill-airflow", cwd=ROOT,
    )  # fmt: skip
    (tmp_path / "constraints.txt").write_text(locked)
    run_command(uv(), "venv", "--python", sys.executable, str(tmp_path / "venv"), cwd=tmp_path)
    run_command(
        uv(), "pip", "install", "--python", python, "-c", str(tmp_path / "constraints.txt"),
        str(wheel), "pytest", cwd=tmp_path,
    )  # fmt: skip
    packages = run_command(uv(), "pip", "list", "--python", python, cwd=tmp_path).split()
    assert "tidemill-airflow" in packages
    assert not {"dagster", "tidemill", "dagster-graphql"} & set(packages)
    output = run_command(
        python, "-m", "pytest", "-q", "-c", "/dev/null", "--rootdir", str(UNIT), "--confcutdir",
        str(UNIT), "--import-mode", "importlib", "-o", f"pythonpath={ASSETS_TESTS}", "-p",
        "no:cacheprovider", str(UNIT), cwd=tmp_path,
    )  # fmt: skip
    assert " passed" in output.splitlines()[-1]
    assert "failed" not in output.splitlines()[-1]
    providers = run_command(str(Path(python).parent / "airflow"), "providers", "list", cwd=tmp_path)
    assert "tidemill-airflow" in providers
