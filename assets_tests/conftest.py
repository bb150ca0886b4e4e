"""Fixtures that several test folders share, such as one real Kafka for the whole session."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from support.models.harness import ModelHarness, model_name_for
from support.servers.s3 import S3Server, running_s3_server
from tidemill import failpoints
from tidemill.local import broker

# The duration of an example depends more on the machine than on the code.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

_SERVER_FIXTURES = {"kafka", "s3"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what needs a server of the session, so that `make test-fast` can leave it out."""
    for item in items:
        if isinstance(item, pytest.Function) and _SERVER_FIXTURES & set(item.fixturenames):
            item.add_marker(pytest.mark.servers)


@pytest.fixture(scope="session")
def kafka_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the session's broker."""
    return tmp_path_factory.mktemp("kafka")


@pytest.fixture(scope="session")
def kafka(kafka_folder: Path) -> Iterator[str]:
    """The bootstrap servers of a broker on a free port; its data is deleted with the session's."""
    with broker.running(kafka_folder) as servers:
        yield servers


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """An S3-compatible server on a free port, for the session."""
    with running_s3_server(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture
def harness(kafka: str, tmp_path: Path, request: pytest.FixtureRequest) -> ModelHarness:
    """A new model `m…` with its defs.yaml and an empty topic, on the session's Kafka."""
    new_harness = ModelHarness(kafka, tmp_path, model_name_for(request.node.nodeid))
    new_harness.define()
    new_harness.create_topic()
    return new_harness


@pytest.fixture(autouse=True)
def _disarm_failpoints() -> Iterator[None]:
    yield
    failpoints.arm("")
