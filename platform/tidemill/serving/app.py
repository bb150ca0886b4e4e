"""The application: dispatch, the path of a prediction, and errors in the protocol used."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, field
from urllib.parse import parse_qs

from tidemill.core.errors import NotServed, RequestInvalid, TidemillError, UnknownModel
from tidemill.serving import openapi
from tidemill.serving.http import (
    JSON_HEADERS,
    Channel,
    MethodNotAllowed,
    NoSuchPath,
    RequestLimits,
    Scope,
    TokenAuth,
    error_headers,
    error_status,
)
from tidemill.serving.metrics import Metrics
from tidemill.serving.prediction_log import PredictionLog
from tidemill.serving.predictor import Prediction, Predictor
from tidemill.serving.protocols.common import Codec
from tidemill.serving.protocols.inference import OpenInferenceCodec
from tidemill.serving.protocols.native import NativeCodec
from tidemill.serving.routes import PredictRoute, Route, ServerInfo, expand
from tidemill.serving.schemas import RequestSchema, Rows
from tidemill.serving.status import Status

logger = logging.getLogger("tidemill.serving")

MAX_INLINE_ROWS = 16
"""Requests with at most this many rows are predicted inline, without a thread."""


@dataclass(frozen=True)
class Endpoint:
    """A route of this server: for one model, or ("") for the model that the request names.

    `codecs` are by model; only a route that predicts has them.
    """

    route: Route
    model: str
    codecs: Mapping[str, Codec]
    headers: list[tuple[str, str]]


@dataclass
class App:
    """An RSGI application over the state of a server."""

    status: Status
    metrics: Metrics
    limits: RequestLimits
    auth: TokenAuth
    executor: Executor
    prediction_log: PredictionLog | None = None
    in_flight: int = 0
    _endpoints: dict[str, dict[str, Endpoint]] = field(default_factory=dict, init=False)
    """Endpoints by path and method."""

    def __post_init__(self) -> None:
        schemas = {name: state.schema for name, state in self.status.models.items()}
        for name in schemas:
            self.metrics.init_model(name)
        document = openapi.document(self.status.specs, schemas)
        self._info = ServerInfo(self.status, self.metrics, document, openapi.page(document))
        for path, route, model in expand(list(schemas)):
            endpoint = _make_endpoint(route, model, schemas)
            self._endpoints.setdefault(path, {})[route.method] = endpoint

    def __rsgi__(self, scope: Scope, channel: Channel) -> Awaitable[None]:
        return self._handle(scope, channel)

    async def _handle(self, scope: Scope, channel: Channel) -> None:
        started_at = time.perf_counter()
        self.in_flight += 1
        model, label = "", "none"
        path = scope.path  # Granian builds the string on each access
        encode_error = (OpenInferenceCodec if path.startswith("/v2") else NativeCodec).encode_error
        status = 500
        try:
            methods = self._endpoints.get(path)
            endpoint = methods.get(scope.method) if methods is not None else None
            if endpoint is None or endpoint.route.requires_token:
                self.auth.check(scope)
            if endpoint is None:
                raise self._not_found_error(scope, methods)
            route, label = endpoint.route, endpoint.route.label
            if isinstance(route, PredictRoute):
                encode_error = route.codec.encode_error
                model = endpoint.model or self._requested_model(scope)
                status = await self._predict(endpoint.codecs[model], model, scope, channel)
            else:
                response = route.handler(self._info, endpoint.model)
                status = response.status
                channel.response_bytes(status, endpoint.headers, response.body)
        except TidemillError as error:
            status = error_status(error)
            if status == 500:
                logger.error("%s %s: %s", scope.method, scope.path, error)
            channel.response_bytes(status, error_headers(error), encode_error(error))
        except Exception:
            logger.exception("%s %s", scope.method, scope.path)
            channel.response_bytes(500, JSON_HEADERS, encode_error(_INTERNAL_ERROR))
        finally:
            self.in_flight -= 1
            self.metrics.observe_request(model, label, status, time.perf_counter() - started_at)

    async def _predict(self, codec: Codec, model: str, scope: Scope, channel: Channel) -> int:
        """Answer with the model that is in service once the body is read; the status code."""
        body = await self.limits.read_body(scope, channel)
        state = self.status.models[model]
        served = state.served
        if served is None:
            raise NotServed(
                f"No deployment of model {model} is in service yet.",
                "Retry later; /models shows what the server is waiting for.",
            )
        request = codec.decode(body)
        try:
            predictions = await self._compute_predictions(served.predictor, request.rows)
        except ValueError:
            raise state.schema.non_text_error(request.rows) from None
        channel.response_bytes(200, JSON_HEADERS, codec.encode(request, served, predictions))
        if self.prediction_log is not None:
            self.prediction_log.put(request, served, predictions)
        return 200

    async def _compute_predictions(self, predictor: Predictor, rows: Rows) -> list[Prediction]:
        if len(rows) <= MAX_INLINE_ROWS:
            return [predictor.predict_row(row) for row in rows]
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(
            self.executor, lambda: predictor.predict_matrix(predictor.matrix(rows))
        )

    def _requested_model(self, scope: Scope) -> str:
        """The model of a request whose path does not name one."""
        models = list(self.status.models)
        names = parse_qs(scope.query_string).get("model", [])
        name = names[0] if names else scope.headers.get("x-tidemill-model")
        if name is None and len(models) == 1:
            return models[0]
        if name is None:
            raise RequestInvalid(
                "Several models are served, and the request does not name one.",
                f"Add ?model=NAME or the header X-Tidemill-Model; models: {', '.join(models)}.",
            )
        if name not in models:
            raise self._unknown_model_error(name)
        return name

    def _not_found_error(self, scope: Scope, methods: Mapping[str, object] | None) -> TidemillError:
        if methods is not None:
            return MethodNotAllowed(scope.method, scope.path, ", ".join(methods))
        parts = scope.path.strip("/").split("/")
        v2_segment = parts[2:3] if parts[1:2] == ["models"] else []
        segment = {"models": parts[1:2], "v2": v2_segment}.get(parts[0], [])
        if segment and segment[0] not in self.status.models:
            return self._unknown_model_error(segment[0])
        return NoSuchPath(f"Path {scope.path[:200]} does not exist.", "See /docs for all paths.")

    def _unknown_model_error(self, name: str) -> UnknownModel:
        return UnknownModel(
            f"No model {name[:80]!r} is served.",
            f"Served models: {', '.join(self.status.models)}.",
        )


def _make_endpoint(route: Route, model: str, schemas: Mapping[str, RequestSchema]) -> Endpoint:
    if isinstance(route, PredictRoute):
        names = [model] if model else list(schemas)
        codecs = {name: route.codec(schemas[name]) for name in names}
        return Endpoint(route, model, codecs, JSON_HEADERS)
    return Endpoint(route, model, {}, [("content-type", route.content_type)])


_INTERNAL_ERROR = TidemillError(
    "An internal error occurred.", "The server's log has the details; report them with the request."
)
