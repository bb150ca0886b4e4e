"""The routes of a server: one table for the router, the metrics and the OpenAPI document."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import ClassVar

import msgspec

from tidemill.serving.http import HTTPResponse
from tidemill.serving.metrics import Metrics
from tidemill.serving.protocols import inference
from tidemill.serving.protocols.common import Codec
from tidemill.serving.protocols.inference import OpenInferenceCodec
from tidemill.serving.protocols.mlflow import MlflowCodec
from tidemill.serving.protocols.native import NativeCodec
from tidemill.serving.status import Status

SERVER_METADATA = {"name": "tidemill", "version": version("tidemill"), "extensions": []}


@dataclass(frozen=True)
class ServerInfo:
    """What a handler may read: the state of the server, and its own documentation."""

    status: Status
    metrics: Metrics
    document: bytes
    page: bytes


Handler = Callable[[ServerInfo, str], HTTPResponse]
"""Responds for a model, whose name is empty if the path names none."""


@dataclass(frozen=True)
class InfoRoute:
    """A route that returns information.

    `{model}` in the path stands for each served model. Without a summary, the route is an alias
    that is not documented. `can_be_unready` means that the response may have the status 503.
    """

    path: str
    handler: Handler
    summary: str | None
    content_type: str = "application/json"
    requires_token: bool = True
    can_be_unready: bool = False
    method: ClassVar[str] = "GET"
    label: ClassVar[str] = "info"


@dataclass(frozen=True)
class PredictRoute:
    """A route that predicts, for the model in the path or else for the one the request names.

    `label` is the route in the metrics; `{target}` in the summary, what the model predicts.
    """

    path: str
    codec: type[Codec]
    summary: str
    label: str
    method: ClassVar[str] = "POST"
    requires_token: ClassVar[bool] = True


Route = InfoRoute | PredictRoute


def expand(models: Sequence[str]) -> Iterator[tuple[str, Route, str]]:
    """Every path of a server of these models, its route, and its model, if it names one."""
    for route in ROUTES:
        if "{model}" in route.path:
            for model in models:
                yield route.path.replace("{model}", model), route, model
        else:
            yield route.path, route, ""


def _json_response(payload: object, status: int = 200) -> HTTPResponse:
    return HTTPResponse(msgspec.json.encode(payload), status)


def _page(info: ServerInfo, model: str) -> HTTPResponse:
    return HTTPResponse(info.page)


def _document(info: ServerInfo, model: str) -> HTTPResponse:
    return HTTPResponse(info.document)


def _models(info: ServerInfo, model: str) -> HTTPResponse:
    return _json_response(info.status.describe())


def _metrics(info: ServerInfo, model: str) -> HTTPResponse:
    return HTTPResponse(info.metrics.render(info.status))


def _metadata(info: ServerInfo, model: str) -> HTTPResponse:
    return _json_response(SERVER_METADATA)


def _liveness(info: ServerInfo, model: str) -> HTTPResponse:
    return _json_response({"live": True})


def _readiness(info: ServerInfo, model: str) -> HTTPResponse:
    ready = info.status.ready
    return _json_response({"ready": ready}, 200 if ready else 503)


def _model_status(info: ServerInfo, model: str) -> HTTPResponse:
    return _json_response(info.status.describe_model(model))


def _model_readiness(info: ServerInfo, model: str) -> HTTPResponse:
    served = info.status.models[model].served
    payload = {"name": model, "ready": served is not None}
    return _json_response(payload, 503 if served is None else 200)


def _model_metadata(info: ServerInfo, model: str) -> HTTPResponse:
    state = info.status.models[model]
    served = state.served
    versions = [] if served is None else [str(served.entry.seq)]
    outputs = len(info.status.specs[model].classes) or 1
    return _json_response(inference.metadata(state.schema, versions, outputs))


_HTML = "text/html; charset=utf-8"
_PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"
_SAME_AS_READY = "Same as /v2/health/ready"

ROUTES: tuple[Route, ...] = (
    InfoRoute("/", _page, None, _HTML),
    InfoRoute("/models", _models, "The models in service, how old and how stale they are"),
    InfoRoute("/metrics", _metrics, "Metrics for Prometheus", _PROMETHEUS),
    InfoRoute("/openapi.json", _document, "This document"),
    InfoRoute("/docs", _page, "This document as HTML", _HTML),
    InfoRoute("/version", _metadata, None),
    InfoRoute("/v2", _metadata, "The server (Open Inference Protocol)"),
    InfoRoute("/v2/health/live", _liveness, "Whether the server is alive", requires_token=False),
    InfoRoute(
        "/v2/health/ready",
        _readiness,
        "Whether every configured model is served",
        requires_token=False,
        can_be_unready=True,
    ),
    InfoRoute("/ping", _readiness, _SAME_AS_READY, requires_token=False, can_be_unready=True),
    InfoRoute("/health", _readiness, _SAME_AS_READY, requires_token=False, can_be_unready=True),
    InfoRoute("/models/{model}", _model_status, "Model {model} in service"),
    PredictRoute("/models/{model}/predict", NativeCodec, "Predict {target}", "predict"),
    InfoRoute("/v2/models/{model}", _model_metadata, "Model {model} (Open Inference Protocol)"),
    InfoRoute(
        "/v2/models/{model}/ready",
        _model_readiness,
        "Whether model {model} is served",
        can_be_unready=True,
    ),
    PredictRoute(
        "/v2/models/{model}/infer",
        OpenInferenceCodec,
        "Predict {target} (Open Inference Protocol): one tensor [rows] per field",
        "infer",
    ),
    PredictRoute(
        "/invocations",
        MlflowCodec,
        "Predict (MLflow's scoring protocol): one of its formats",
        "invocations",
    ),
)
