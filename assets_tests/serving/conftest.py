"""One model with several deployments over real Kafka, and one server of it, for all tests here."""

import shutil
import uuid
from collections.abc import Iterator

import pytest

from bench import Bench, named, run
from serving_hands import Ledgered, Serving, digests, serving
from tidemill.cycle.mill import ModelContext


@pytest.fixture(scope="session")
def deployed(kafka: str, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """A bench whose windows 0 to 3 were each deployed; nobody appends to its ledger."""
    made = Bench(kafka, tmp_path_factory.mktemp("served"), named("served"))
    made.define(gate={"min_rows": 50, "policy": "always"})
    made.create_topic()
    made.feed(-3, 5)
    with made.mill() as mill:
        run(mill, 0, 3)
    return made


@pytest.fixture(scope="session")
def server(deployed: Bench) -> Iterator[Serving]:
    """A server of that model. Tests may ask what they like; they leave its ledger alone."""
    with serving(deployed, max_rows=50, max_bytes=20_000, name="shared") as running:
        yield running


@pytest.fixture(scope="session")
def mill(deployed: Bench) -> Iterator[ModelContext]:
    """The mill of that model."""
    with deployed.mill() as opened:
        yield opened


@pytest.fixture
def ledgered(deployed: Bench) -> Iterator[Ledgered]:
    """The bundles of `deployed` under a ledger of its own, to which a test may append."""
    bench = deployed.twin(f"t{uuid.uuid4().hex[:8]}")
    store, name = bench.settings.store, f"{bench.model}/models"
    shutil.copytree(deployed.settings.store / name, store / name)
    with bench.mill() as opened:
        one, other, *_ = digests(opened)
        yield Ledgered(bench, opened, one, other)
