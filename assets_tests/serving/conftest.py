"""One model with several deployments on a real Kafka broker, and one server for all tests."""

import shutil
import uuid
from collections.abc import Iterator

import pytest

from serving.ledger_fixture import LedgerFixture
from support.models.harness import ModelHarness, model_name_for, run_windows
from support.serving.prediction_server import PredictionServer, bundle_digests, running_server
from tidemill.cycle.context import ModelContext


@pytest.fixture(scope="session")
def deployed_harness(kafka: str, tmp_path_factory: pytest.TempPathFactory) -> ModelHarness:
    """A harness whose windows 0 to 3 are each deployed; tests must not append to its ledger."""
    new_harness = ModelHarness(kafka, tmp_path_factory.mktemp("served"), model_name_for("served"))
    new_harness.define(gate={"min_rows": 50, "policy": "always"})
    new_harness.create_topic()
    new_harness.produce_windows(-3, 5)
    with new_harness.open_model() as ctx:
        run_windows(ctx, 0, 3)
    return new_harness


@pytest.fixture(scope="session")
def server(deployed_harness: ModelHarness) -> Iterator[PredictionServer]:
    """A server of that model. Tests may send any request but must not append to its ledger."""
    with running_server(deployed_harness, max_rows=50, max_bytes=20_000, name="shared") as running:
        yield running


@pytest.fixture(scope="session")
def ctx(deployed_harness: ModelHarness) -> Iterator[ModelContext]:
    """The context of that model."""
    with deployed_harness.open_model() as opened:
        yield opened


@pytest.fixture
def ledger_fixture(deployed_harness: ModelHarness) -> Iterator[LedgerFixture]:
    """The bundles of `deployed_harness` with a separate ledger, to which a test may append."""
    harness = deployed_harness.twin(f"t{uuid.uuid4().hex[:8]}")
    store, name = harness.settings.store, f"{harness.model}/models"
    shutil.copytree(deployed_harness.settings.store / name, store / name)
    with harness.open_model() as opened:
        first_digest, second_digest, *_ = bundle_digests(opened)
        yield LedgerFixture(harness, opened, first_digest, second_digest)
