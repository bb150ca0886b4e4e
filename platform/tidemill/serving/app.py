"""The application: routes, the path of a prediction, and errors in the format of each protocol."""

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
    JSON_HEADERS,
    Channel,
    HTTPResponse,
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
from tidemill.serving.protocols import inference, mlflow, native
from tidemill.serving.protocols.common import Codec, ErrorEncoder
from tidemill.serving.schemas import RequestSchema, Rows
from tidemill.serving.status import Status

logger = logging.getLogger("tidemill.serving")

MAX_INLINE_ROWS = 16
"""Requests with at most this many rows are predicted inline, without a thread."""
_PROMETHEUS_HEADERS = (("content-type", "text/plain; version=0.0.4; charset=utf-8"),)
_HTML_HEADERS = (("content-type", "text/html; charset=utf-8"),)


@dataclass(frozen=True)
class PredictRoute:
    """A route that predicts: for one model, or (None) for the model that the request names."""

    name: str
    codecs: Mapping[str, Codec]
    encode_error: ErrorEncoder
    model: str | None = None


@dataclass(frozen=True)
class InfoRoute:
    """A route that returns information; a probe requires no token."""

    handler: Callable[[], HTTPResponse]
    probe: bool = False


Routes = dict[str, dict[str, PredictRoute | InfoRoute]]
"""Routes by path and method."""


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
    _routes: Routes = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        schemas = {name: state.schema for name, state in self.status.follower.models.items()}
        for name in schemas:
            self.metrics.init_model(name)
        document = openapi.document(self.status.specs, schemas)
        self._routes |= self._info_routes(document) | self._predict_routes(schemas)

    def __rsgi__(self, scope: Scope, channel: Channel) -> Awaitable[None]:
        return self._handle(scope, channel)

    async def _handle(self, scope: Scope, channel: Channel) -> None:
        started_at = time.perf_counter()
        self.in_flight += 1
        model, route = "", "none"
        path = scope.path  # Granian builds the string on each access
        encode_error = inference.encode_error if path.startswith("/v2") else native.encode_error
        status = 500
        try:
            methods = self._routes.get(path)
            matched_route = methods.get(scope.method) if methods is not None else None
            if not (isinstance(matched_route, InfoRoute) and matched_route.probe):
                self.auth.check(scope)
            if isinstance(matched_route, PredictRoute):
                route, encode_error = matched_route.name, matched_route.encode_error
                model = matched_route.model or self._requested_model(scope)
                status = await self._predict(matched_route, model, scope, channel)
            elif matched_route is not None:
                route, response = "info", matched_route.handler()
                status = response.status
                channel.response_bytes(status, list(response.headers), response.body)
            else:
                raise self._not_found_error(scope, methods)
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
            self.metrics.observe_request(model, route, status, time.perf_counter() - started_at)

    async def _predict(
        self, route: PredictRoute, model: str, scope: Scope, channel: Channel
    ) -> int:
        """Answer with the model that is in service once the body is read; the status code."""
        codec = route.codecs[model]
        body = await self.limits.read_body(scope, channel)
        served = self.status.follower.models[model].slot.served
        if served is None:
            raise NotServed(
                f"No deployment of model {model} is in service yet.",
                "Retry later; /models shows what the server is waiting for.",
            )
        request = codec.decode(body)
        try:
            predictions = await self._compute_predictions(served.predictor, request.rows)
        except ValueError:
            raise self.status.follower.models[model].schema.non_text_error(request.rows) from None
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
        models = list(self.status.follower.models)
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
        if segment and segment[0] not in self.status.follower.models:
            return self._unknown_model_error(segment[0])
        return NoSuchPath(f"Path {scope.path[:200]} does not exist.", "See /docs for all paths.")

    def _unknown_model_error(self, name: str) -> UnknownModel:
        return UnknownModel(
            f"No model {name[:80]!r} is served.",
            f"Served models: {', '.join(self.status.follower.models)}.",
        )

    def _predict_routes(self, schemas: Mapping[str, RequestSchema]) -> Routes:
        """The routes that predict, and the routes that describe a model."""
        mlflow_codecs = {name: mlflow.MlflowCodec(schema) for name, schema in schemas.items()}
        invocations = PredictRoute("invocations", mlflow_codecs, mlflow.encode_error)
        routes: Routes = {"/invocations": {"POST": invocations}}
        for name, schema in schemas.items():
            native_codecs = {name: native.NativeCodec(schema)}
            inference_codecs = {name: inference.OpenInferenceCodec(schema)}
            predict = PredictRoute("predict", native_codecs, native.encode_error, name)
            infer = PredictRoute("infer", inference_codecs, inference.encode_error, name)
            ready = InfoRoute(partial(self._model_readiness, name))
            routes |= {
                f"/models/{name}/predict": {"POST": predict},
                f"/v2/models/{name}/infer": {"POST": infer},
                f"/models/{name}": {"GET": InfoRoute(partial(self._model_status, name))},
                f"/v2/models/{name}": {"GET": InfoRoute(partial(self._model_metadata, name))},
                f"/v2/models/{name}/ready": {"GET": ready},
            }
        return routes

    def _info_routes(self, document: bytes) -> Routes:
        page = openapi.page(document)
        routes = {
            "/": InfoRoute(lambda: HTTPResponse(page, headers=_HTML_HEADERS)),
            "/docs": InfoRoute(lambda: HTTPResponse(page, headers=_HTML_HEADERS)),
            "/openapi.json": InfoRoute(lambda: HTTPResponse(document)),
            "/models": InfoRoute(lambda: _json_response(self.status.describe())),
            "/metrics": InfoRoute(
                lambda: HTTPResponse(self.metrics.render(self.status), headers=_PROMETHEUS_HEADERS)
            ),
            "/version": InfoRoute(lambda: _json_response(openapi.SERVER_METADATA)),
            "/v2": InfoRoute(lambda: _json_response(openapi.SERVER_METADATA)),
            "/ping": InfoRoute(self._server_readiness, probe=True),
            "/health": InfoRoute(self._server_readiness, probe=True),
            "/v2/health/live": InfoRoute(lambda: _json_response({"live": True}), probe=True),
            "/v2/health/ready": InfoRoute(self._server_readiness, probe=True),
        }
        return {path: {"GET": route} for path, route in routes.items()}

    def _server_readiness(self) -> HTTPResponse:
        ready = self.status.ready
        return _json_response({"ready": ready}, 200 if ready else 503)

    def _model_status(self, name: str) -> HTTPResponse:
        return _json_response(self.status.describe_model(name))

    def _model_readiness(self, name: str) -> HTTPResponse:
        served = self.status.follower.models[name].slot.served
        payload = {"name": name, "ready": served is not None}
        return _json_response(payload, 503 if served is None else 200)

    def _model_metadata(self, name: str) -> HTTPResponse:
        state = self.status.follower.models[name]
        served = state.slot.served
        versions = [] if served is None else [str(served.entry.seq)]
        outputs = len(self.status.specs[name].classes) or 1
        return _json_response(inference.metadata(state.schema, versions, outputs))


_INTERNAL_ERROR = TidemillError(
    "An internal error occurred.", "The server's log has the details; report them with the request."
)


def _json_response(payload: object, status: int = 200) -> HTTPResponse:
    return HTTPResponse(msgspec.json.encode(payload), status)
