"""The application: routes, the way of a prediction, and errors in each protocol's own words."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, field
from functools import partial
from urllib.parse import parse_qs

import msgspec

from tidemill.core.errors import NotServed, RequestInvalid, TidemillError, UnknownModel
from tidemill.serving import openapi
from tidemill.serving.http import (
    JSON,
    Bounds,
    Channel,
    Guard,
    MethodNotAllowed,
    NoSuchPath,
    Reply,
    Scope,
    headers_of,
    status_of,
)
from tidemill.serving.metrics import Metrics
from tidemill.serving.prediction_log import PredictionLog
from tidemill.serving.predictor import Prediction, Predictor
from tidemill.serving.protocols import inference, mlflow, native
from tidemill.serving.protocols.common import Complain, Speaker
from tidemill.serving.schemas import Contract, Rows
from tidemill.serving.status import Status

logger = logging.getLogger("tidemill.serving")

INLINE = 16
"""Rows up to which a request is answered at once, without a thread."""
_TEXT = (("content-type", "text/plain; version=0.0.4; charset=utf-8"),)
_PAGE = (("content-type", "text/html; charset=utf-8"),)


@dataclass(frozen=True)
class Ask:
    """A route that predicts: for one model, or (None) for the one that the request names."""

    route: str
    speakers: Mapping[str, Speaker]
    complain: Complain
    model: str | None = None


@dataclass(frozen=True)
class Look:
    """A route that tells something; a probe is open to everybody."""

    tell: Callable[[], Reply]
    probe: bool = False


@dataclass
class App:
    """An RSGI application over the state of a server."""

    status: Status
    metrics: Metrics
    bounds: Bounds
    guard: Guard
    pool: Executor
    log: PredictionLog | None = None
    under_way: int = 0
    _routes: dict[str, dict[str, Ask | Look]] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        contracts = {name: each.contract for name, each in self.status.follower.models.items()}
        for name in contracts:
            self.metrics.begin(name)
        document = openapi.document(self.status.specs, contracts)
        self._routes |= self._looks(document) | self._asks(contracts)

    def __rsgi__(self, scope: Scope, channel: Channel) -> Awaitable[None]:
        return self._handle(scope, channel)

    async def _handle(self, scope: Scope, channel: Channel) -> None:
        begun = time.perf_counter()
        self.under_way += 1
        model, route = "", "none"
        complain = inference.complain if scope.path.startswith("/v2") else native.complain
        status = 500
        try:
            methods = self._routes.get(scope.path)
            found = methods.get(scope.method) if methods is not None else None
            if not (isinstance(found, Look) and found.probe):
                self.guard.check(scope)
            if isinstance(found, Ask):
                route, complain = found.route, found.complain
                model = found.model or self._named(scope)
                status = await self._predict(found, model, scope, channel)
            elif found is not None:
                route, reply = "look", found.tell()
                status = reply.status
                channel.response_bytes(status, list(reply.headers), reply.body)
            else:
                raise self._missing(scope, methods)
        except TidemillError as error:
            status = status_of(error)
            if status == 500:
                logger.error("%s %s: %s", scope.method, scope.path, error)
            channel.response_bytes(status, headers_of(error), complain(error))
        except Exception:
            logger.exception("%s %s", scope.method, scope.path)
            channel.response_bytes(500, JSON, complain(_UNFORESEEN))
        finally:
            self.under_way -= 1
            self.metrics.answered(model, route, status, time.perf_counter() - begun)

    async def _predict(self, ask: Ask, model: str, scope: Scope, channel: Channel) -> int:
        """Answer a request by the model that is in service when its body has come."""
        speaker = ask.speakers[model]
        body = await self.bounds.body(scope, channel)
        served = self.status.follower.models[model].slot.served
        if served is None:
            raise NotServed(
                f"No deployment of model {model} is in service yet.",
                "Ask again later; /models says what the server waits for.",
            )
        asked = speaker.read(body)
        try:
            told = await self._answers(served.predictor, asked.rows)
        except ValueError:
            raise self.status.follower.models[model].contract.no_text(asked.rows) from None
        channel.response_bytes(200, JSON, speaker.answer(asked, served, told))
        if self.log is not None:
            self.log.put(asked, served, told)
        return 200

    async def _answers(self, predictor: Predictor, rows: Rows) -> list[Prediction]:
        if len(rows) <= INLINE:
            return [predictor.one(row) for row in rows]
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self.pool, lambda: predictor.many(predictor.matrix(rows)))

    def _named(self, scope: Scope) -> str:
        """The model of a request whose path names none."""
        models = list(self.status.follower.models)
        told = parse_qs(scope.query_string).get("model", [])
        name = told[0] if told else scope.headers.get("x-tidemill-model")
        if name is None and len(models) == 1:
            return models[0]
        if name is None:
            raise RequestInvalid(
                "Several models are served, and the request names none.",
                f"Add ?model=NAME, or the header X-Tidemill-Model: {', '.join(models)}.",
            )
        if name not in models:
            raise self._unknown(name)
        return name

    def _missing(self, scope: Scope, methods: Mapping[str, object] | None) -> TidemillError:
        if methods is not None:
            return MethodNotAllowed(scope.method, scope.path, ", ".join(methods))
        parts = scope.path.strip("/").split("/")
        named = {"models": parts[1:2], "v2": parts[2:3] if parts[1:2] == ["models"] else []}
        name = named.get(parts[0], [])
        if name and name[0] not in self.status.follower.models:
            return self._unknown(name[0])
        return NoSuchPath(f"There is no {scope.path[:200]}.", "See /docs for what there is.")

    def _unknown(self, name: str) -> UnknownModel:
        return UnknownModel(
            f"No model {name[:80]!r} is served.",
            f"There are: {', '.join(self.status.follower.models)}.",
        )

    def _asks(self, contracts: Mapping[str, Contract]) -> dict[str, dict[str, Ask | Look]]:
        """The routes that predict, and what the Open Inference Protocol tells of a model."""
        scoring = {name: mlflow.Mlflow(each) for name, each in contracts.items()}
        routes: dict[str, dict[str, Ask | Look]] = {
            "/invocations": {"POST": Ask("invocations", scoring, mlflow.complain)}
        }
        for name, contract in contracts.items():
            own, tensors = native.Native(contract), inference.Inference(contract)
            routes |= {
                f"/models/{name}/predict": {
                    "POST": Ask("predict", {name: own}, native.complain, name)
                },
                f"/v2/models/{name}/infer": {
                    "POST": Ask("infer", {name: tensors}, inference.complain, name)
                },
                f"/models/{name}": {"GET": Look(partial(self._model, name))},
                f"/v2/models/{name}": {"GET": Look(partial(self._metadata, name))},
                f"/v2/models/{name}/ready": {"GET": Look(partial(self._model_ready, name))},
            }
        return routes

    def _looks(self, document: bytes) -> dict[str, dict[str, Ask | Look]]:
        page = openapi.page(document)
        looks = {
            "/": Look(lambda: Reply(page, headers=_PAGE)),
            "/docs": Look(lambda: Reply(page, headers=_PAGE)),
            "/openapi.json": Look(lambda: Reply(document)),
            "/models": Look(lambda: _json(self.status.describe())),
            "/metrics": Look(lambda: Reply(self.metrics.page(self.status), headers=_TEXT)),
            "/version": Look(lambda: _json(openapi.SERVER)),
            "/v2": Look(lambda: _json(openapi.SERVER)),
            "/ping": Look(self._ready, probe=True),
            "/health": Look(self._ready, probe=True),
            "/v2/health/live": Look(lambda: _json({"live": True}), probe=True),
            "/v2/health/ready": Look(self._ready, probe=True),
        }
        return {path: {"GET": look} for path, look in looks.items()}

    def _ready(self) -> Reply:
        ready = self.status.ready
        return _json({"ready": ready}, 200 if ready else 503)

    def _model(self, name: str) -> Reply:
        return _json(self.status.model(name))

    def _model_ready(self, name: str) -> Reply:
        served = self.status.follower.models[name].slot.served
        told = {"name": name, "ready": served is not None}
        return _json(told, 503 if served is None else 200)

    def _metadata(self, name: str) -> Reply:
        followed = self.status.follower.models[name]
        served = followed.slot.served
        versions = [] if served is None else [str(served.entry.seq)]
        outputs = len(self.status.specs[name].classes) or 1
        return _json(inference.metadata(followed.contract, versions, outputs))


_UNFORESEEN = TidemillError(
    "The server failed to answer.", "Its log says why; please report it with the request."
)


def _json(told: object, status: int = 200) -> Reply:
    return Reply(msgspec.json.encode(told), status)
