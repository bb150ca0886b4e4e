"""The images of `deploy/docker/` and every service of `deploy/compose.yaml`, by a real engine."""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from e2e.containers.compose_stack import ComposeStack, running_stack
from e2e.containers.engine import DockerEngine, running_engine
from support.models.oracle import assert_repository_matches_log
from support.servers.platform import DAGS, MODEL
from tidemill.adapters.files import FileStore
from tidemill.cycle.repository import ModelRepository
from tidemill.local.broker.jars import lockfile_folder, pinned_jars
from tidemill.services.live_flights import TOPIC

pytestmark = pytest.mark.faults

_UPDATE = DAGS[2]
_SEED = 7
_INNER_PORTS = {"postgres": 5432, "kafka": 9092, "dagster-code": 4000}
"""Ports that are reachable from other services only."""
_FIND_MODULES = (
    "import sys; from importlib.util import find_spec; print(*filter(find_spec, sys.argv[1:]))"
)


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DockerEngine]:
    with running_engine(tmp_path_factory.mktemp("engine")) as engine:
        yield engine


@pytest.fixture(scope="module")
def platform(
    engine: DockerEngine, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ComposeStack]:
    with running_stack(engine, tmp_path_factory.mktemp("stack")) as stack:
        yield stack


def importable_modules(engine: DockerEngine, image: str) -> set[str]:
    names = ("airflow", "dagster", "lightgbm", "mlflow", "tidemill", "tidemill_airflow", "uv")
    command = ("python", "-c", _FIND_MODULES, *names)
    return set(engine.run("run", "--rm", f"tidemill-{image}", *command).split())


def test_each_image_has_what_it_is_for_and_nothing_of_the_others(engine: DockerEngine) -> None:
    platform_modules = {"dagster", "lightgbm", "mlflow", "tidemill"}
    assert importable_modules(engine, "platform") == platform_modules
    assert importable_modules(engine, "serving") == {"lightgbm", "tidemill"}
    assert importable_modules(engine, "airflow") == {"airflow", "tidemill_airflow"}


def test_serving_image_refuses_to_serve_beyond_loopback_without_a_token(
    engine: DockerEngine,
) -> None:
    serve = ("tidemill", "serve", "--host", "0.0.0.0")
    command = f"{' '.join(serve)} 2>&1; echo exit code $?"
    output = engine.run("run", "--rm", "tidemill-serving", "sh", "-c", command)
    assert "TIDEMILL_SERVE__TOKEN" in output
    assert output.splitlines()[-1] == "exit code 1"


def test_airflow_image_has_the_provider(engine: DockerEngine) -> None:
    providers = engine.run("run", "--rm", "tidemill-airflow", "airflow", "providers", "list")
    assert "tidemill-airflow" in providers


def test_broker_is_the_kafka_whose_jars_are_pinned(platform: ComposeStack) -> None:
    (pinned,) = (
        jar
        for jar in pinned_jars(lockfile_folder())
        if jar.groupId == "org.apache.kafka" and jar.artifactId.startswith("kafka_")
    )
    assert platform.services["kafka"]["image"] == f"apache/kafka:{pinned.version}"


def test_each_service_is_healthy_and_has_no_privileges(platform: ComposeStack) -> None:
    for name in platform.long_running:
        processes = platform.processes(name)
        mounts = (Path("/proc") / str(processes[0].pid) / "mounts").read_text()
        assert mounts.split()[3].startswith("ro,")
        user = platform.services[name]["user"].partition(":")[0]
        for process in processes:
            status = process_status(process.pid)
            assert status["Uid"].split() == [user] * 4 != ["0"] * 4
            assert status["NoNewPrivs"] == "1"
            assert {int(status[kind], 16) for kind in ("CapEff", "CapPrm", "CapBnd")} == {0}


def process_status(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def test_each_service_listens_where_others_need_it_and_nowhere_else(platform: ComposeStack) -> None:
    for name in platform.long_running:
        published = {port["target"] for port in platform.services[name].get("ports", ())}
        inner = {_INNER_PORTS[name]} if name in _INNER_PORTS else set()
        assert external_ports(platform.pid(name)) == published | inner, name
    memory = platform.memory_mb()
    print({name: round(size) for name, size in memory.items()}, f"{sum(memory.values()):.0f} MB")


def external_ports(pid: int) -> set[int]:
    """The ports on which a container listens beyond its own loopback interface."""
    ports = set()
    for kind in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{kind}").read_text().splitlines()[1:]:
            (address, port), state = line.split()[1].split(":"), line.split()[3]
            is_loopback = address.endswith(("7F", "01000000"))
            if state == "0A" and not is_loopback:
                ports.add(int(port, 16))
    return ports


def test_a_window_goes_from_an_airflow_dag_to_a_prediction(platform: ComposeStack) -> None:
    assert f"{MODEL}: valid" in platform.run_cli("validate")
    platform.wait_until(lambda: platform.call_airflow("dags")["total_entries"] == len(DAGS))
    assert platform.call_airflow("importErrors")["total_entries"] == 0
    for dag in DAGS:
        assert platform.call_airflow(f"dags/{dag}", "GET")["is_paused"]
        assert not platform.call_airflow(f"dags/{dag}", "PATCH", is_paused=False)["is_paused"]
    digest = platform.wait_for_version(1, timeout=600)
    assert requests.get(f"{platform.address('SERVE__PORT')}/models", timeout=30).status_code == 401
    entry = next(each for each in platform.history() if each["digest"] == digest)
    assert entry["kind"] == "deploy"
    assert entry["seq"] >= 1
    platform.wait_until(lambda: platform.completed_windows() >= 1)
    run = platform.successful_runs(_UPDATE)[-1]["dag_run_id"]
    xcom = f"dags/{_UPDATE}/dagRuns/{run}/taskInstances/update/xcomEntries/return_value"
    launched = platform.call_airflow(xcom)["value"]
    assert platform.sql("dagster", f"SELECT status FROM runs WHERE run_id = '{launched}'") == [
        "SUCCESS"
    ]
    assert platform.sql("mlflow", "SELECT name FROM registered_models") == [MODEL]
    platform.wait_until(
        lambda: platform.champion_digest() == (platform.served_model() or [None])[0],
        platform.champion_digest,
    )


def test_nothing_is_lost_when_all_services_stop_and_start_in_any_order(
    platform: ComposeStack,
) -> None:
    before, chance = platform.completed_windows(), random.Random(_SEED)
    order = chance.sample(platform.long_running, len(platform.long_running))
    killed = {"postgres", "kafka", "dagster-code", "airflow-scheduler", *chance.sample(order, 2)}
    platform.compose("kill", *killed)
    platform.compose("stop", *(name for name in order if name not in killed))
    for name in chance.sample(order, len(order)):
        platform.start_now(name)
    platform.up()
    platform.wait_until(
        lambda: platform.completed_windows() > before,
        lambda: str(platform.call_airflow(f"dags/{_UPDATE}/dagRuns")),
    )
    platform.quiesce()
    print(platform.run_cli("verify", MODEL, "--recompute"))  # fails on any finding
    platform.wait_for_version(platform.history()[-1]["seq"])
    partitions = sorted(platform.volume("kafka").glob(f"{TOPIC}-*"))
    assert (
        assert_repository_matches_log(
            ModelRepository(FileStore(platform.volume("store")), MODEL), partitions
        )
        > 0
    )


def test_the_simulated_stream_is_a_service_too(platform: ComposeStack) -> None:
    platform.up("simulation")
    before = platform.stream_bytes()
    platform.wait_until(lambda: platform.stream_bytes() > before)
