"""What each Dockerfile installs is enough for what its image runs, and brings nothing else."""

import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from builder import ROOT, build, within
from dagster_webserver import free_port
from processes import background, output, run_command, wait_until

pytestmark = pytest.mark.faults

Run = Callable[..., str]
"""Runs words in an image, to their end; what they say."""

_FOUND = "import sys; from importlib.util import find_spec; print(*filter(find_spec, sys.argv[1:]))"
_BAG = "from airflow.dag_processing.dagbag import DagBag as B; print(B().import_errors, *B().dags)"


@pytest.fixture(scope="module")
def env(kafka: str, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, str]:
    """The settings of this machine's commands; what the images share is their home."""
    return {"TIDEMILL_HOME": str(tmp_path_factory.mktemp("there"))}


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
    return lambda image, *words, **more: within(
        image, layers[image], shared_home, {**container_env, **more}, *words
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
        "platform", "tidemill", "prepare", "--dags", "/mnt/dags", "--code", "code:4000"
    )


def importable_modules(run_in_image: Run, image: str) -> set[str]:
    names = ("airflow", "dagster", "lightgbm", "mlflow", "tidemill", "tidemill_airflow", "uv")
    return set(run_in_image(image, "python", "-c", _FOUND, *names).split())


def test_each_image_has_what_it_is_for_and_nothing_of_the_others(run_in_image: Run) -> None:
    assert importable_modules(run_in_image, "platform") == {
        "dagster",
        "lightgbm",
        "mlflow",
        "tidemill",
    }
    assert importable_modules(run_in_image, "serving") == {"lightgbm", "tidemill"}
    assert importable_modules(run_in_image, "airflow") == {"airflow", "tidemill_airflow"}


def test_the_code_server_of_the_platform_loads_what_was_prepared(
    image_command: Callable[..., tuple[str, ...]],
    run_in_image: Run,
    env: Mapping[str, str],
    initialized: str,
) -> None:
    assert "flights_live: right" in run_in_image("platform", "tidemill", "check")
    at = f"localhost:{free_port()}"
    words = ("dagster", "api", "grpc", "-h", "0.0.0.0", "-p", at.split(":")[1])
    with background(env, *image_command("platform", *words, "-m", "tidemill.definitions")):
        well = image_command("platform", "python", "/opt/tidemill/health.py", "listens", at)
        wait_until(
            lambda: run_command(env, *well).returncode == 0,
            on_timeout=lambda: output(env),
            interval=0.5,
        )


def test_the_server_of_the_serving_image_answers_with_a_token_from_a_file(
    image_command: Callable[..., tuple[str, ...]], env: Mapping[str, str], initialized: str
) -> None:
    port = str(free_port())
    words = ("tidemill", "serve", "--host", "0.0.0.0", "--port", port)
    refused = run_command(env, *image_command("serving", *words))
    assert (refused.returncode, "TIDEMILL_SERVE__TOKEN" in refused.stderr) == (1, True)
    subprocess.run([ROOT / "deploy" / "secrets.sh", f"{env['TIDEMILL_HOME']}/secrets"], check=True)
    token = {"TIDEMILL_SERVE__TOKEN_FILE": "/run/secrets/serve_token"}
    with background(env, *image_command("serving", *words, "--models", "flights_live", **token)):
        asked = f"http://localhost:{port}/v2/health/live"
        well = image_command("serving", "python", "/opt/tidemill/health.py", "answers", asked)
        wait_until(
            lambda: run_command(env, *well).returncode == 0,
            on_timeout=lambda: output(env),
            interval=0.5,
        )


def test_airflow_in_its_image_knows_the_bridge_and_loads_the_dags_that_were_prepared(
    run_in_image: Run, initialized: str
) -> None:
    assert "tidemill-airflow" in run_in_image("airflow", "airflow", "providers", "list")
    dags = (f"flights_live.{name}" for name in ("initial_model", "stream", "incremental_update"))
    assert set(run_in_image("airflow", "python", "-c", _BAG).splitlines()[-1].split()) == {
        "{}",
        *dags,
    }
