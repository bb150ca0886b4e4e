"""What must be true of the house as a whole, besides the layers that lint-imports holds."""

import ast
import platform
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "platform" / "tidemill"
BRIDGE = ROOT / "airflow_bridge" / "tidemill_airflow"


def modules(*packages: Path) -> list[Path]:
    return sorted(
        path for package in packages or (PACKAGE, BRIDGE) for path in package.rglob("*.py")
    )


def test_the_folder_platform_does_not_hide_the_standard_library() -> None:
    assert not (ROOT / "platform" / "__init__.py").exists()
    assert platform.python_version()


def test_only_the_settings_read_the_environment() -> None:
    readers = {
        path.relative_to(PACKAGE).as_posix()
        for path in modules(PACKAGE)
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute)
        and node.attr in ("environ", "getenv")
        and isinstance(node.value, ast.Name)
        and node.value.id == "os"
    }
    # These hand the environment to a child process, tell Dagster where its home and its database
    # are, or MLflow not to call home.
    handing_on = {
        "adapters/mlflow.py",
        "adapters/bundle_validation/fork_server.py",
        "cli/backfill.py",
        "demo/processes.py",
        "services/dagster_home.py",
        "cli/postgres.py",
        "cli/ui.py",
        "services/services.py",
    }
    # The local Maven repository is found as Maven itself finds it.
    maven = {"local/broker/jars.py"}
    # This tells prometheus_client where the workers of one server share their counters.
    shared = {"serving/supervisor.py"}
    assert readers <= handing_on | maven | shared


def test_the_bridge_reads_no_environment_of_its_own() -> None:
    for path in modules(BRIDGE):
        assert not {"os", "dotenv", "subprocess", "socket"} & imports(path), path


def imports(path: Path) -> set[str]:
    """The first names of all that a module imports."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    plain = {alias.name for n in nodes if isinstance(n, ast.Import) for alias in n.names}
    from_imports = {n.module for n in nodes if isinstance(n, ast.ImportFrom) and n.module}
    return {name.split(".")[0] for name in plain | from_imports}


def test_no_pickle_anywhere() -> None:
    for path in modules():
        assert not imports(path) & {"pickle", "cloudpickle", "joblib", "dill"}, path


def test_every_module_says_in_one_line_what_it_is() -> None:
    for path in modules():
        told = ast.get_docstring(ast.parse(path.read_text()))
        assert told, f"{path} has no docstring"


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("tidemill.cli", {"dagster", "lightgbm", "mlflow", "airflow"}),
        ("tidemill.serving.worker", {"dagster", "mlflow", "airflow"}),
        ("tidemill.definitions", {"lightgbm", "polars", "pyarrow", "confluent_kafka", "mlflow"}),
    ],
)
def test_what_is_started_often_imports_nothing_heavy(module: str, heavy: set[str]) -> None:
    code = f"import sys, {module}; print(*{{name.split('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not heavy & set(done.stdout.split())
