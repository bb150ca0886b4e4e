"""Every benchmark runs by itself and ends with its line of JSON."""

import json
from pathlib import Path

import pytest

from support.processes.commands import run_command
from support.processes.required_tools import require_tools

_FOLDER = Path(__file__).parents[2] / "platform" / "benchmarks"


@pytest.mark.faults
@pytest.mark.parametrize(
    "name",
    ["bridge", "cost_scaling", "ingest", "learning", "overhead", "serving", "serving_attacked"],
)
def test_a_quick_benchmark_ends_with_a_line_of_json_that_judges_nothing(
    tmp_path: Path, name: str
) -> None:
    if name == "serving":
        require_tools("wrk")
    result = run_command(
        {"TIDEMILL_HOME": str(tmp_path)}, "python", str(_FOLDER / f"{name}.py"), "--quick"
    )
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout.splitlines()[-1])
    assert (report["benchmark"], report["quick"], report["goals"]) == (name, True, {})
    assert all(isinstance(figure, float | int | str) for figure in report["figures"].values())
    assert report["figures"]
