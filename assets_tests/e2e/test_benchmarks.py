"""Every benchmark starts, runs by itself and ends with its line of JSON."""

import json
from pathlib import Path

import pytest

from processes import run_command
from required_tools import require_tools

_FOLDER = Path(__file__).parents[2] / "platform" / "benchmarks"


@pytest.mark.faults
@pytest.mark.parametrize(
    "name",
    ["bridge", "flat_cost", "ingest", "learning", "overhead", "serving", "serving_attacked"],
)
def test_a_quick_benchmark_ends_with_a_line_of_json_that_judges_nothing(
    tmp_path: Path, name: str
) -> None:
    if name == "serving":
        require_tools("wrk")
    done = run_command(
        {"TIDEMILL_HOME": str(tmp_path)}, "python", str(_FOLDER / f"{name}.py"), "--quick"
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert (told["benchmark"], told["quick"], told["goals"]) == (name, True, {})
    assert all(isinstance(figure, float | int | str) for figure in told["figures"].values())
    assert told["figures"]
