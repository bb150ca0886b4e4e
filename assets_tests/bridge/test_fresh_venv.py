"""The bridge installs into anybody's Airflow: a new environment, no Dagster, no tidemill."""

import subprocess
import sys
from pathlib import Path
from shutil import which

import pytest

from processes import clean_env

ROOT = Path(__file__).parents[2]
UNIT = ROOT / "assets_tests" / "bridge" / "unit"
SUPPORT = ROOT / "assets_tests" / "support"


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
def test_the_bridges_own_tests_pass_with_airflow_and_nothing_of_ours_beside_it(
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
    there = run_command(uv(), "pip", "list", "--python", python, cwd=tmp_path).split()
    assert "tidemill-airflow" in there
    assert not {"dagster", "tidemill", "dagster-graphql"} & set(there)
    told = run_command(
        python, "-m", "pytest", "-q", "-c", "/dev/null", "--rootdir", str(UNIT), "--confcutdir",
        str(UNIT), "--import-mode", "importlib", "-o", f"pythonpath={SUPPORT}", "-p",
        "no:cacheprovider", str(UNIT), cwd=tmp_path,
    )  # fmt: skip
    assert " passed" in told.splitlines()[-1]
    assert "failed" not in told.splitlines()[-1]
    providers = run_command(str(Path(python).parent / "airflow"), "providers", "list", cwd=tmp_path)
    assert "tidemill-airflow" in providers
