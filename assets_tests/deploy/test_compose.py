"""What no schema checks in the compose file: order, health, privileges, secrets, volumes."""

import json
import os
import re
import subprocess
import sys
import tomllib
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

import pytest
from dockerfile_parse import DockerfileParser

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
CONFIG_OPTIONS = ("--env-file", os.devnull, "--profile", "*", "config", "--no-env-resolution")


def read_config() -> Any:
    """The file as Compose itself resolves it without any setting."""
    compose = Path(sys.executable).with_name("docker-compose")
    command = [compose, "-f", DEPLOY / "compose.yaml", *CONFIG_OPTIONS, "--format", "json"]
    env = {"PATH": os.defpath}
    return json.loads(subprocess.run(command, env=env, capture_output=True, check=True).stdout)


CONFIG: dict[str, Any] = read_config()
SERVICES: dict[str, dict[str, Any]] = CONFIG["services"]
BUILT_SERVICES = {name: service for name, service in SERVICES.items() if "build" in service}
IMAGES = ("airflow", "platform", "serving")

one_service = pytest.mark.parametrize("name", SERVICES)


def parse_dockerfile(name: str) -> DockerfileParser:
    return DockerfileParser(str(DEPLOY / "docker" / f"{name}.Dockerfile"))


def is_one_shot(service: dict[str, Any]) -> bool:
    """Whether the service finishes and is not restarted then."""
    return service["restart"] != "unless-stopped"


@one_service
def test_a_service_has_a_healthcheck_or_exits_by_itself(name: str) -> None:
    assert ("healthcheck" in SERVICES[name]) != is_one_shot(SERVICES[name])


def test_services_start_in_order_and_wait_for_health_or_completion() -> None:
    dependencies = {name: service.get("depends_on", {}) for name, service in SERVICES.items()}
    order = [*TopologicalSorter(dependencies).static_order()]
    assert set(order) == set(SERVICES)
    for depends_on in dependencies.values():
        for name, condition in depends_on.items():
            state = "completed_successfully" if is_one_shot(SERVICES[name]) else "healthy"
            assert condition == {"condition": f"service_{state}", "required": True}
    # `up --wait` treats a service that has exited as a failure unless another waits for its exit.
    always = [name for name, service in SERVICES.items() if "profiles" not in service]
    awaited = {name for depends_on in dependencies.values() for name in depends_on}
    assert {name for name in always if is_one_shot(SERVICES[name])} <= awaited


def test_only_the_uis_and_the_server_are_published_on_the_loopback() -> None:
    published = {
        (name, port["host_ip"], port["published"], port["target"])
        for name, service in SERVICES.items()
        for port in service.get("ports", [])
    }
    assert published == {
        ("airflow-api-server", "127.0.0.1", "8080", 8080),
        ("dagster-webserver", "127.0.0.1", "3000", 3000),
        ("mlflow", "127.0.0.1", "5000", 5000),
        ("serving", "127.0.0.1", "8000", 8000),
    }


@one_service
def test_a_service_has_no_privileges_and_limited_logs(name: str) -> None:
    service = SERVICES[name]
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", service["user"])
    assert service["read_only"]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["logging"]["options"].keys() == {"max-size", "max-file"}
    assert not {"cap_add", "devices", "ipc", "network_mode", "pid", "privileged"} & set(service)


@one_service
def test_a_service_gets_exactly_the_secrets_that_it_needs_as_files(name: str) -> None:
    service, needed = SERVICES[name], set()
    command = " ".join(service["command"] or [])
    for variable, value in service.get("environment", {}).items():
        assert not re.search(r"://\w+:[^@/]+@", value), "a password in an address"
        if value.startswith("/run/secrets/"):
            assert variable.endswith("_FILE")
            needed.add(value.removeprefix("/run/secrets/"))
        elif re.search("PASSWORD|SECRET|TOKEN|KEY", variable):
            assert value == "/tmp/passwords.json"
    needed |= set(re.findall(r"/run/secrets/(\w+)", command))
    if name == "postgres":
        needed |= {f"postgres_{user}" for user in ("dagster", "airflow", "mlflow")}
    assert {secret["source"] for secret in service.get("secrets", [])} == needed
    assert needed <= set(CONFIG["secrets"])


def test_only_the_owners_of_a_volume_can_write_to_it() -> None:
    writers: dict[str, set[str]] = {name: set() for name in CONFIG["volumes"]}
    for name, service in SERVICES.items():
        for volume in service.get("volumes", []):
            if volume["type"] == "volume" and not volume.get("read_only"):
                writers[volume["source"]].add(name)
    dagster = {"init", "dagster-code", "dagster-webserver", "dagster-daemon", "simulation"}
    airflow = {name for name in SERVICES if name.startswith("airflow-")}
    assert writers == {
        "postgres": {"postgres"},
        "kafka": {"kafka"},
        "mlflow": {"mlflow"},
        "serving": {"serving"},
        "models": {"init"},
        "dags": {"init"},
        "tidemill": dagster,
        "store": {"dagster-code"},
        "airflow": airflow,
    }


@pytest.mark.parametrize("name", BUILT_SERVICES)
def test_the_folder_of_a_volume_belongs_to_the_user_of_the_image(name: str) -> None:
    image = BUILT_SERVICES[name]["image"].removeprefix("tidemill-")
    assert BUILT_SERVICES[name]["build"]["dockerfile"] == f"deploy/docker/{image}.Dockerfile"
    runs = [
        step["value"] for step in parse_dockerfile(image).structure if step["instruction"] == "RUN"
    ]
    (folders,) = (run.split("install --directory")[1] for run in runs if "install --di" in run)
    assert folders.split()[:2] == ["--owner=10001", "--group=10001"]
    targets = {volume["target"] for volume in BUILT_SERVICES[name].get("volumes", [])}
    assert targets <= set(folders.split())


@pytest.mark.parametrize("image", IMAGES)
def test_an_image_has_an_unprivileged_user_and_pinned_versions(image: str) -> None:
    last = {step["instruction"]: step["value"] for step in parse_dockerfile(image).structure}
    assert last["USER"] == BUILT_SERVICES["init"]["user"] == "10001:10001"
    assert {*parse_dockerfile(image).parent_images} == {"python:3.11.15-slim-bookworm"}
    uv = re.search(r"^UV_VERSION := (\S+)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert uv is not None
    assert f"uv=={uv[1]}\n" in parse_dockerfile(image).content
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    labels = parse_dockerfile(image).labels
    assert labels["org.opencontainers.image.version"] == project["version"]
    assert labels["org.opencontainers.image.licenses"] == project["license"]


def test_the_brokers_settings_are_those_of_the_embedded_one() -> None:
    from tidemill.local.broker import process

    env = SERVICES["kafka"]["environment"]
    embedded = dict(line.split("=", 1) for line in process._PROPERTIES.splitlines())
    locations = {"listeners", "advertised.listeners", "controller.quorum.voters", "log.dirs"}
    assert {
        key: env[f"KAFKA_{key.replace('.', '_').upper()}"] for key in embedded.keys() - locations
    } == {key: embedded[key] for key in embedded.keys() - locations}
