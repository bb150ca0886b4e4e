"""If several models are served, a request whose path names none must name one."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from serving import small_models
from serving.rsgi import Request, send_request
from support.kafka.ledgers import manual_entry
from tidemill.adapters.feature_function import load_feature_function
from tidemill.adapters.memory import InProcessValidator, MemoryFeed, MemoryLedger, MemoryStore
from tidemill.core import canonical
from tidemill.core.ledger import Chain
from tidemill.serving.app import App
from tidemill.serving.http import RequestLimits, TokenAuth
from tidemill.serving.ledger_follower import LedgerFollower
from tidemill.serving.loading import PredictorLoader
from tidemill.serving.local_copy import LocalCopy
from tidemill.serving.metrics import Metrics
from tidemill.serving.model_follower import ModelFollower
from tidemill.serving.schemas import RequestSchema
from tidemill.serving.status import Status

NAMES = ("one", "other")
BODY = json.dumps({"inputs": [{"size": 1, "place": "p1"}]}).encode()


@pytest.fixture(scope="module")
def app() -> App:
    """Two models with the same bundle."""
    spec = small_models.spec()
    bundle = small_models.bundle(spec)
    ledger = MemoryLedger()
    for name in NAMES:
        entry = manual_entry(Chain(name), canonical.digest(bundle), "operator", "")
        ledger.append(name, canonical.encode(entry))
    models = [
        ModelFollower(
            RequestSchema(name, spec.fields, 10),
            lambda digest: bundle,
            PredictorLoader(InProcessValidator(), load_feature_function),
            LocalCopy(MemoryStore()),
            lambda: 0,
        )
        for name in NAMES
    ]
    follower = LedgerFollower(MemoryFeed(ledger), models, lambda: 0)
    follower.step(0)
    specs = dict.fromkeys(NAMES, spec)
    status = Status(follower.states, follower.connection, specs, lambda: 0)
    return App(
        status, Metrics(), RequestLimits(10_000, 10, 5), TokenAuth(None), ThreadPoolExecutor(1)
    )


def request(path: str, query: str = "", headers: dict[str, str] | None = None) -> Request:
    return Request(path, BODY, query, headers or {})


@pytest.mark.parametrize(
    ("query", "headers"),
    [("model=other", {}), ("", {"x-tidemill-model": "other"})],
    ids=["by query", "by header"],
)
def test_a_request_may_name_its_model(app: App, query: str, headers: dict[str, str]) -> None:
    assert send_request(app, request("/invocations", query, headers))["model"] == "other"


def test_the_error_for_a_request_without_a_model_lists_the_models(app: App) -> None:
    nameless = request("/invocations")
    assert "one, other" in send_request(app, nameless)["message"]
    assert nameless.status == 400


def test_the_models_do_not_share_their_routes(app: App) -> None:
    for path, status in (("/models/one/predict", 400), ("/models/none/predict", 404)):
        invalid = request(path)  # `inputs` is not part of its protocol
        send_request(app, invalid)
        assert invalid.status == status
