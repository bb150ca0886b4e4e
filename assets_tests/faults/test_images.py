"""Each Dockerfile installs what its image needs, and nothing else."""

import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from builder import ROOT, build, command_in_image
from dagster_webserver import free_port
from processes import background, output, run_command, wait_until

pytestmark = pytest.mark.faults

Run = Callable[..., str]
"""Runs a command in an image to completion; its output."""

_FIND_MODULES = (
    "import sys; from importlib.util import find_spec; print(*filter(find_spec, sys.argv[1:]))"
)
_LOAD_DAGS = (
    "from airflow.dag_processing.dagbag import DagBag as B; print(B().import_errors, *B().dags)"
)


@pytest.fixture(scope="module")
def env(kafka: str, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, str]:
    """The environment of commands on this machine; the images share its home."""
    return {"TIDEMILL_HOME": str(tmp_path_factory.mktemp("shared"))}


@pytest.fixture(scope="module")
def image_command(
    kafka: str, env: Mapping[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., tuple[str, ...]]:
    layers_folder, shared_home = tmp_path_factory.mktemp("images"), Path(env["TIDEMILL_HOME"])
    layers = {
        name: build(name, layers_folder / name) for name in ("platform", "serving", "airflow")
    }
    container_env = {
        "TIDEMILL_HOME": "/mnt/home",
        "TIDEMILL_MODELS": "/mnt/models",
        "TIDEMILL_KAFKA__BOOTSTRAP_SERVERS": kafka,
        "DAGSTER_HOME": "/mnt/home/dagster",
        "AIRFLOW__CORE__DAGS_FOLDER": "/mnt/dags",
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
    }
    return lambda image, *command, **extra_env: command_in_image(
        image, layers[image], shared_home, {**container_env, **extra_env}, *command
    )


@pytest.fixture(scope="module")
def run_in_image(image_command: Callable[..., tuple[str, ...]], env: Mapping[str, str]) -> Run:
    def run_image(image: str, *args: str) -> str:
        result = run_command(env, *image_command(image, *args))
        assert result.returncode == 0, result.stdout + result.stderr
        return result.stdout

    return run_image


@pytest.fixture(scope="module")
def initialized(run_in_image: Run) -> str:
    return run_in_image(
        "platform", "tidemill", "init", "--dags", "/mnt/dags", "--code", "code:4000"
    )


def importable_modules(run_in_image: Run, image: str) -> set[str]:
    names = ("airflow", "dagster", "lightgbm", "mlflow", "tidemill", "tidemill_airflow", "uv")
    return set(run_in_image(image, "python", "-c", _FIND_MODULES, *names).split())


def test_each_image_has_what_it_is_for_and_nothing_of_the_others(run_in_image: Run) -> None:
    assert importable_modules(run_in_image, "platform") == {
        "dagster",
        "lightgbm",
        "mlflow",
        "tidemill",
    }
    assert importable_modules(run_in_image, "serving") == {"lightgbm", "tidemill"}
    assert importable_modules(run_in_image, "airflow") == {"airflow", "tidemill_airflow"}


def test_the_platform_images_code_server_loads_the_initialized_definitions(
    image_command: Callable[..., tuple[str, ...]],
    run_in_image: Run,
    env: Mapping[str, str],
    initialized: str,
) -> None:
    assert "flights_live: valid" in run_in_image("platform", "tidemill", "validate")
    address = f"localhost:{free_port()}"
    command = ("dagster", "api", "grpc", "-h", "0.0.0.0", "-p", address.split(":")[1])
    with background(env, *image_command("platform", *command, "-m", "tidemill.definitions")):
        health_check = image_command(
            "platform", "python", "/opt/tidemill/health.py", "listening", address
        )
        wait_until(
            lambda: run_command(env, *health_check).returncode == 0,
            on_timeout=lambda: output(env),
            interval=0.5,
        )


def test_the_serving_images_server_reads_its_token_from_a_file(
    image_command: Callable[..., tuple[str, ...]], env: Mapping[str, str], initialized: str
) -> None:
    port = str(free_port())
    command = ("tidemill", "serve", "--host", "0.0.0.0", "--port", port)
    result = run_command(env, *image_command("serving", *command))
    assert (result.returncode, "TIDEMILL_SERVE__TOKEN" in result.stderr) == (1, True)
    subprocess.run(
        [ROOT / "deploy" / "generate-secrets.sh", f"{env['TIDEMILL_HOME']}/secrets"], check=True
    )
    token = {"TIDEMILL_SERVE__TOKEN_FILE": "/run/secrets/serve_token"}
    with background(env, *image_command("serving", *command, "--models", "flights_live", **token)):
        url = f"http://localhost:{port}/v2/health/live"
        health_check = image_command(
            "serving", "python", "/opt/tidemill/health.py", "responds", url
        )
        wait_until(
            lambda: run_command(env, *health_check).returncode == 0,
            on_timeout=lambda: output(env),
            interval=0.5,
        )


def test_the_airflow_image_has_the_bridge_and_loads_the_initialized_dags(
    run_in_image: Run, initialized: str
) -> None:
    assert "tidemill-airflow" in run_in_image("airflow", "airflow", "providers", "list")
    dags = (f"flights_live.{name}" for name in ("initial_model", "stream", "incremental_update"))
    assert set(run_in_image("airflow", "python", "-c", _LOAD_DAGS).splitlines()[-1].split()) == {
        "{}",
        *dags,
    }
