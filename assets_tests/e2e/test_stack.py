"""`deploy/compose.yaml`: every service as specified, in containers of this machine."""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from compose_stack import ComposeStack, running_stack
from containers import Container
from oracle import assert_repository_matches_log
from platform_driver import DAGS, MODEL
from tidemill.adapters.files import FileStore
from tidemill.cycle.repository import ModelRepository
from tidemill.local.broker.jars import lockfile_folder, pinned_digests
from tidemill.services.live_flights import TOPIC

pytestmark = pytest.mark.faults

_UPDATE = DAGS[2]
_SEED = 7
_INNER = {"postgres": 5432, "kafka": 9092, "dagster-code": 4000}
"""Ports that only other services connect to."""


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComposeStack]:
    with running_stack(tmp_path_factory.mktemp("stack")) as stack:
        yield stack


def test_the_broker_is_the_kafka_whose_jars_are_pinned(platform: ComposeStack) -> None:
    pinned = next(
        pin
        for pin in pinned_digests(lockfile_folder())
        if pin.startswith("org.apache.kafka:kafka_")
    )
    assert platform.services["kafka"].image == f"apache/kafka:{pinned.rpartition(':')[2]}"


def test_each_service_becomes_healthy_without_extra_privileges(platform: ComposeStack) -> None:
    for name in platform.long_running:
        container = platform.runner.container(name)
        first, processes = container.pid, container.processes()
        assert (Path("/proc") / str(first) / "mounts").read_text().split()[3].startswith("ro,")
        for process in processes:
            status = process_status(process.pid)
            assert status["Uid"].split() == [str(container.spec.user[0])] * 4 != ["0"] * 4
            assert status["NoNewPrivs"] == "1"
            assert {int(status[kind], 16) for kind in ("CapEff", "CapPrm", "CapBnd")} == {0}


def process_status(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def test_each_service_listens_only_on_the_ports_that_others_need(platform: ComposeStack) -> None:
    published = {
        name: {port for *_, port in platform.services[name].ports} for name in platform.long_running
    }
    for name in platform.long_running:
        inner = {_INNER[name]} if name in _INNER else set()
        assert external_ports(platform.runner.container(name)) == published[name] | inner, name
    memory = platform.memory_mb()
    print({name: round(size) for name, size in memory.items()}, f"{sum(memory.values()):.0f} MB")


def external_ports(container: Container) -> set[int]:
    """The ports on which it accepts connections from other hosts."""
    ports = set()
    for kind in ("tcp", "tcp6"):
        for line in Path(f"/proc/{container.pid}/net/{kind}").read_text().splitlines()[1:]:
            (address, port), state = line.split()[1].split(":"), line.split()[3]
            if state == "0A" and not address.endswith(("0100007F", "01000000")):
                ports.add(int(port, 16))
    return ports


def test_a_window_goes_from_an_airflow_dag_to_a_prediction(platform: ComposeStack) -> None:
    platform.wait_until(lambda: platform.call_airflow("dags")["total_entries"] == len(DAGS))
    for dag in DAGS:
        assert platform.call_airflow(f"dags/{dag}", "GET")["is_paused"]
        assert not platform.call_airflow(f"dags/{dag}", "PATCH", is_paused=False)["is_paused"]
    digest = platform.wait_for_version(1)
    assert requests.get(f"{platform.address('SERVE__PORT')}/models", timeout=30).status_code == 401
    entry = next(entry for entry in platform.history() if entry["digest"] == digest)
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


def test_nothing_is_lost_if_all_services_stop_and_start_in_any_order(
    platform: ComposeStack,
) -> None:
    before, rng = platform.completed_windows(), random.Random(_SEED)
    order = rng.sample(platform.long_running, len(platform.long_running))
    killed = {"postgres", "kafka", "dagster-code", "airflow-scheduler", *rng.sample(order, 2)}
    platform.runner.stop(order, killed)
    for name in rng.sample(order, len(order)):
        platform.runner.start(name)
    platform.runner.up(platform.service_names)
    platform.wait_until(
        lambda: platform.completed_windows() > before,
        lambda: str(platform.call_airflow(f"dags/{_UPDATE}/dagRuns")),
    )
    platform.quiesce()
    print(platform.run_cli("verify", MODEL, "--recompute"))  # fails if it finds anything
    platform.wait_for_version(platform.history()[-1]["seq"])
    partitions = sorted(platform.volumes.glob(f"kafka/{TOPIC}-*"))
    assert (
        assert_repository_matches_log(
            ModelRepository(FileStore(platform.volumes / "store"), MODEL), partitions
        )
        > 0
    )


def test_the_simulation_is_a_service_too(platform: ComposeStack) -> None:
    platform.runner.up(["simulation"])
    before = platform.stream_bytes()
    platform.wait_until(
        lambda: platform.stream_bytes() > before, platform.runner.container("simulation").log_tail
    )
