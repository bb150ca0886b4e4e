"""Where several models are served, a request that names none in its path must name one."""

import asyncio
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import pytest

import small_models
from ledger_hands import persons_entry
from tidemill.adapters.memory import LocalProver, MemoryFeed, MemoryLedger, MemoryStore
from tidemill.core import canonical
from tidemill.core.ledger import Chain
from tidemill.serving.app import App
from tidemill.serving.following import Follower
from tidemill.serving.http import Bounds, Guard, Headers
from tidemill.serving.loading import Loader
from tidemill.serving.local_copy import LocalCopy
from tidemill.serving.metrics import Metrics
from tidemill.serving.schemas import Contract
from tidemill.serving.status import Status

NAMES = ("one", "other")
BODY = json.dumps({"inputs": [{"size": 1, "place": "p1"}]}).encode()


@dataclass
class Request:
    """The head of a request, its body, and the answer (RSGI)."""

    path: str
    query_string: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    method: str = "POST"
    proto: str = "http"
    status: int = 0
    told: bytes = b""

    async def __call__(self) -> bytes:
        return BODY

    def response_bytes(self, status: int, headers: Headers, body: bytes) -> None:
        self.status, self.told = status, body


@pytest.fixture(scope="module")
def app() -> App:
    """Two models over one bundle."""
    spec = small_models.spec()
    bundle = small_models.bundle(spec)
    ledger = MemoryLedger()
    for name in NAMES:
        entry = persons_entry(Chain(name), canonical.digest(bundle), "somebody", "")
        ledger.append(name, canonical.encode(entry))
    follower = Follower(
        MemoryFeed(ledger),
        {name: Contract(name, spec.fields, 10) for name in NAMES},
        lambda model, digest: bundle,
        Loader(LocalProver(), dict.fromkeys(NAMES)),
        LocalCopy(MemoryStore()),
        lambda: 0,
    )
    follower.step(0)
    status = Status(follower, dict.fromkeys(NAMES, spec), lambda: 0)
    return App(status, Metrics(), Bounds(10_000, 10, 5), Guard(None), ThreadPoolExecutor(1))


def asked(app: App, request: Request) -> Request:
    request.headers.setdefault("content-length", str(len(BODY)))

    async def ask() -> None:
        await app.__rsgi__(request, request)  # type: ignore[arg-type]

    asyncio.run(ask())
    return request


@pytest.mark.parametrize(
    "request_",
    [
        Request("/invocations", "model=other"),
        Request("/invocations", headers={"x-tidemill-model": "other"}),
    ],
    ids=["by query", "by header"],
)
def test_a_request_may_name_its_model(app: App, request_: Request) -> None:
    told = asked(app, request_)
    assert (told.status, json.loads(told.told)["model"]) == (200, "other")


def test_a_request_that_names_none_is_told_which_there_are(app: App) -> None:
    told = asked(app, Request("/invocations"))
    assert told.status == 400
    assert "one, other" in json.loads(told.told)["message"]


def test_the_models_do_not_share_their_routes(app: App) -> None:
    assert asked(app, Request("/models/one/predict")).status == 400  # `inputs` is not its protocol
    assert asked(app, Request("/models/none/predict")).status == 404
