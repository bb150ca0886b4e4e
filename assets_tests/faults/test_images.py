"""What each Dockerfile installs is enough for what its image runs, and brings nothing else."""

import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from builder import ROOT, build, within
from commands import begun, command, said, until
from dagster_ui import free_port

pytestmark = pytest.mark.faults

Run = Callable[..., str]
"""Runs words in an image, to their end; what they say."""

_FOUND = "import sys; from importlib.util import find_spec; print(*filter(find_spec, sys.argv[1:]))"
_BAG = "from airflow.dag_processing.dagbag import DagBag as B; print(B().import_errors, *B().dags)"


@pytest.fixture(scope="module")
def told(kafka: str, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, str]:
    """The settings of this machine's commands; what the images share is their home."""
    return {"TIDEMILL_HOME": str(tmp_path_factory.mktemp("there"))}


@pytest.fixture(scope="module")
def images(
    kafka: str, told: Mapping[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., tuple[str, ...]]:
    folder, there = tmp_path_factory.mktemp("images"), Path(told["TIDEMILL_HOME"])
    layers = {name: build(name, folder / name) for name in ("platform", "serving", "airflow")}
    ours = {
        "TIDEMILL_HOME": "/mnt/home",
        "TIDEMILL_MODELS": "/mnt/models",
        "TIDEMILL_KAFKA__BOOTSTRAP_SERVERS": kafka,
        "DAGSTER_HOME": "/mnt/home/dagster",
        "AIRFLOW__CORE__DAGS_FOLDER": "/mnt/dags",
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
    }
    return lambda image, *words, **more: within(
        image, layers[image], there, {**ours, **more}, *words
    )


@pytest.fixture(scope="module")
def run(images: Callable[..., tuple[str, ...]], told: Mapping[str, str]) -> Run:
    def run(image: str, *words: str) -> str:
        done = command(told, *images(image, *words))
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run


@pytest.fixture(scope="module")
def prepared(run: Run) -> str:
    return run("platform", "tidemill", "prepare", "--dags", "/mnt/dags", "--code", "code:4000")


def imported(run: Run, image: str) -> set[str]:
    names = ("airflow", "dagster", "lightgbm", "mlflow", "tidemill", "tidemill_airflow", "uv")
    return set(run(image, "python", "-c", _FOUND, *names).split())


def test_each_image_has_what_it_is_for_and_nothing_of_the_others(run: Run) -> None:
    assert imported(run, "platform") == {"dagster", "lightgbm", "mlflow", "tidemill"}
    assert imported(run, "serving") == {"lightgbm", "tidemill"}
    assert imported(run, "airflow") == {"airflow", "tidemill_airflow"}


def test_the_code_server_of_the_platform_loads_what_was_prepared(
    images: Callable[..., tuple[str, ...]], run: Run, told: Mapping[str, str], prepared: str
) -> None:
    assert "flights_live: right" in run("platform", "tidemill", "check")
    at = f"localhost:{free_port()}"
    words = ("dagster", "api", "grpc", "-h", "0.0.0.0", "-p", at.split(":")[1])
    with begun(told, *images("platform", *words, "-m", "tidemill.definitions")):
        well = images("platform", "python", "/opt/tidemill/health.py", "listens", at)
        until(lambda: command(told, *well).returncode == 0, told=lambda: said(told), pause=0.5)


def test_the_server_of_the_serving_image_answers_with_a_token_from_a_file(
    images: Callable[..., tuple[str, ...]], told: Mapping[str, str], prepared: str
) -> None:
    port = str(free_port())
    words = ("tidemill", "serve", "--host", "0.0.0.0", "--port", port)
    refused = command(told, *images("serving", *words))
    assert (refused.returncode, "TIDEMILL_SERVE__TOKEN" in refused.stderr) == (1, True)
    subprocess.run([ROOT / "deploy" / "secrets.sh", f"{told['TIDEMILL_HOME']}/secrets"], check=True)
    token = {"TIDEMILL_SERVE__TOKEN_FILE": "/run/secrets/serve_token"}
    with begun(told, *images("serving", *words, "--models", "flights_live", **token)):
        asked = f"http://localhost:{port}/v2/health/live"
        well = images("serving", "python", "/opt/tidemill/health.py", "answers", asked)
        until(lambda: command(told, *well).returncode == 0, told=lambda: said(told), pause=0.5)


def test_airflow_in_its_image_knows_the_bridge_and_loads_the_dags_that_were_prepared(
    run: Run, prepared: str
) -> None:
    assert "tidemill-airflow" in run("airflow", "airflow", "providers", "list")
    dags = (f"flights_live.{name}" for name in ("initial_model", "stream", "incremental_update"))
    assert set(run("airflow", "python", "-c", _BAG).splitlines()[-1].split()) == {"{}", *dags}
