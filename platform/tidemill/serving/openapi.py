"""The OpenAPI document of a server, and a plain HTML page that shows it."""

import html
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

import msgspec

from tidemill.core.spec import ModelSpec
from tidemill.core.spec_sections import FieldSpec
from tidemill.serving.protocols import inference, native
from tidemill.serving.schemas import RequestSchema

SERVER_METADATA = {"name": "tidemill", "version": version("tidemill"), "extensions": []}
Schema = dict[str, Any]

_JSON_TYPES: dict[str, list[str]] = {
    "category": ["string", "integer", "boolean", "null"],
    "number": ["number", "null"],
    "boolean": ["boolean", "null"],
}
_SCHEMA_REF = "#/components/schemas/{name}"
_PREDICT_RESPONSE = native.PredictResponse.__name__
_ERROR_RESPONSE = native.ErrorResponse.__name__
_STRUCTS = (
    native.PredictResponse,
    native.ErrorResponse,
    inference.InferenceRequest,
    inference.InferenceResponse,
)


def document(specs: Mapping[str, ModelSpec], request_schemas: Mapping[str, RequestSchema]) -> bytes:
    """The document as JSON."""
    _, components = msgspec.json.schema_components(_STRUCTS, ref_template=_SCHEMA_REF)
    paths = dict(_INFO_PATHS)
    for name, request_schema in request_schemas.items():
        components[f"rows_{name}"] = _rows_schema(request_schema)
        components[f"request_{name}"] = _request_schema(name)
        target_text = f"{specs[name].objective} {specs[name].label}"
        paths |= {
            f"/models/{name}": _get(f"Model {name} in service"),
            f"/models/{name}/predict": _post(
                f"Predict {target_text}", _ref(f"request_{name}"), _PREDICT_RESPONSE
            ),
            f"/v2/models/{name}": _get(f"Model {name} (Open Inference Protocol)"),
            f"/v2/models/{name}/ready": _get(f"Whether model {name} is served", other_status=503),
            f"/v2/models/{name}/infer": _post(
                f"Predict {target_text} (Open Inference Protocol): one tensor [rows] per field",
                _ref("InferenceRequest"),
                "InferenceResponse",
            ),
        }
    paths["/invocations"] = _invocations(request_schemas)
    return msgspec.json.encode(
        {
            "openapi": "3.1.0",
            "info": {"title": "tidemill serve", "version": SERVER_METADATA["version"]},
            "paths": paths,
            "components": {
                "schemas": components,
                "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
            },
        }
    )


def page(data: bytes) -> bytes:
    """The document as an HTML page without scripts or external resources."""
    parsed = msgspec.json.decode(data)
    rows = [
        f"<tr><td>{method.upper()}</td><td><code>{html.escape(path)}</code></td>"
        f"<td>{html.escape(operation['summary'])}</td></tr>"
        for path, methods in parsed["paths"].items()
        for method, operation in methods.items()
    ]
    schemas = [
        f"<h3>{html.escape(name)}</h3><pre>{_pretty(schema)}</pre>"
        for name, schema in parsed["components"]["schemas"].items()
    ]
    return (
        "<!doctype html><html lang=en><meta charset=utf-8><title>tidemill serve</title>"
        "<style>body{font-family:sans-serif;margin:2em}td{padding:.2em 1em .2em 0}</style>"
        f"<h1>tidemill serve {html.escape(parsed['info']['version'])}</h1><table>{''.join(rows)}"
        f"</table><h2>Schemas</h2>{''.join(schemas)}<p><a href=/openapi.json>openapi.json</a>"
    ).encode()


def _pretty(schema: Schema) -> str:
    return html.escape(msgspec.json.format(msgspec.json.encode(schema), indent=2).decode())


def _ref(name: str) -> Schema:
    return {"$ref": _SCHEMA_REF.format(name=name)}


def _rows_schema(request_schema: RequestSchema) -> Schema:
    required = [name for name, field in request_schema.fields.items() if not field.optional]
    row = {
        "type": "object",
        "properties": {name: _field_schema(field) for name, field in request_schema.fields.items()},
        "required": required,
        "additionalProperties": False,
    }
    return {"type": "array", "items": row, "minItems": 1, "maxItems": request_schema.max_rows}


def _field_schema(field: FieldSpec) -> Schema:
    return {"type": _JSON_TYPES[field.type]}


def _request_schema(name: str) -> Schema:
    return {
        "type": "object",
        "properties": {"rows": _ref(f"rows_{name}"), "id": {"type": ["string", "null"]}},
        "required": ["rows"],
        "additionalProperties": False,
    }


def _invocations(request_schemas: Mapping[str, RequestSchema]) -> Schema:
    rows = [_ref(f"rows_{name}") for name in request_schemas]
    records_schema = rows[0] if len(rows) == 1 else {"anyOf": rows}
    request: Schema = {
        "type": "object",
        "properties": {"dataframe_records": records_schema},
        "required": ["dataframe_records"],
        "additionalProperties": False,
    }
    post = _post("Predict (MLflow's scoring protocol): one of its formats", request, None)
    post["post"]["parameters"] = [
        {
            "name": "model",
            "in": "query",
            "required": len(rows) > 1,
            "schema": {"enum": list(request_schemas)},
            "description": "The model; required if several are served.",
        }
    ]
    return post


def _content(schema: Schema, media_type: str = "application/json") -> Schema:
    return {"content": {media_type: {"schema": schema}}}


def _get(
    summary: str, media_type: str = "application/json", other_status: int | None = None
) -> Schema:
    schema: Schema = {"type": "object" if media_type == "application/json" else "string"}
    responses: Schema = {"200": {"description": summary, **_content(schema, media_type)}}
    if other_status is not None:
        responses[str(other_status)] = {"description": "Not ready", **_content(schema, media_type)}
    responses["401"] = {"description": "No valid token", **_content(_ref(_ERROR_RESPONSE))}
    return {"get": {"summary": summary, "responses": responses, "security": [{}, {"token": []}]}}


def _probe(summary: str, other_status: int | None = None) -> Schema:
    operation = _get(summary, other_status=other_status)
    del operation["get"]["responses"]["401"], operation["get"]["security"]
    return operation


def _post(summary: str, request: Schema, response_name: str | None) -> Schema:
    error_response = {"description": "An error", **_content({"type": "object"})}
    if response_name == _PREDICT_RESPONSE:
        error_response = {"description": "An error", **_content(_ref(_ERROR_RESPONSE))}
    success_schema = (
        _ref(response_name) if response_name else {"type": "object", "required": ["predictions"]}
    )
    responses: Schema = {"200": {"description": "Predictions", **_content(success_schema)}}
    responses |= dict.fromkeys(("400", "401", "404", "408", "413", "503"), error_response)
    body = {"required": True, **_content(request)}
    security: list[Schema] = [{}, {"token": []}]
    return {
        "post": {
            "summary": summary,
            "requestBody": body,
            "responses": responses,
            "security": security,
        }
    }


_INFO_PATHS: Schema = {
    "/models": _get("The models in service, how old and how stale they are"),
    "/metrics": _get("Metrics for Prometheus", "text/plain"),
    "/openapi.json": _get("This document"),
    "/docs": _get("This document as HTML", "text/html"),
    "/v2": _get("The server (Open Inference Protocol)"),
    "/v2/health/live": _probe("Whether the server is alive"),
    "/v2/health/ready": _probe("Whether every configured model is served", 503),
    "/ping": _probe("Same as /v2/health/ready", 503),
    "/health": _probe("Same as /v2/health/ready", 503),
}
