"""The OpenAPI document of a server, and a plain HTML page that shows it."""

import html
from collections.abc import Mapping

import msgspec

from tidemill.core.spec import ModelSpec
from tidemill.core.spec_sections import FieldSpec
from tidemill.serving.protocols import inference, native
from tidemill.serving.protocols.common import SCHEMA_REF, JsonSchema, ref, request_name, rows_name
from tidemill.serving.routes import SERVER_METADATA, InfoRoute, PredictRoute, expand
from tidemill.serving.schemas import RequestSchema

_JSON_TYPES: dict[str, list[str]] = {
    "category": ["string", "integer", "boolean", "null"],
    "number": ["number", "null"],
    "boolean": ["boolean", "null"],
}
_STRUCTS = (
    native.PredictResponse,
    native.ErrorResponse,
    inference.InferenceRequest,
    inference.InferenceResponse,
)
_SECURITY: list[JsonSchema] = [{}, {"token": []}]


def document(specs: Mapping[str, ModelSpec], request_schemas: Mapping[str, RequestSchema]) -> bytes:
    """The document as JSON, made from the table of routes."""
    _, components = msgspec.json.schema_components(_STRUCTS, ref_template=SCHEMA_REF)
    for name, request_schema in request_schemas.items():
        components[rows_name(name)] = _rows_schema(request_schema)
        components[request_name(name)] = _request_schema(name)
    models = list(request_schemas)
    paths: dict[str, JsonSchema] = {}
    for path, route, model in expand(models):
        if route.summary is None:
            continue
        target = f"{specs[model].objective} {specs[model].label}" if model else ""
        summary = route.summary.format(model=model, target=target)
        if isinstance(route, PredictRoute):
            operation = _predict_operation(route, summary, models, model)
        else:
            operation = _info_operation(route, summary)
        paths.setdefault(path, {})[route.method.lower()] = operation
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


def _pretty(schema: JsonSchema) -> str:
    return html.escape(msgspec.json.format(msgspec.json.encode(schema), indent=2).decode())


def _rows_schema(request_schema: RequestSchema) -> JsonSchema:
    required = [name for name, field in request_schema.fields.items() if not field.optional]
    row = {
        "type": "object",
        "properties": {name: _field_schema(field) for name, field in request_schema.fields.items()},
        "required": required,
        "additionalProperties": False,
    }
    return {"type": "array", "items": row, "minItems": 1, "maxItems": request_schema.max_rows}


def _field_schema(field: FieldSpec) -> JsonSchema:
    return {"type": _JSON_TYPES[field.type]}


def _request_schema(model: str) -> JsonSchema:
    return {
        "type": "object",
        "properties": {"rows": ref(rows_name(model)), "id": {"type": ["string", "null"]}},
        "required": ["rows"],
        "additionalProperties": False,
    }


def _info_operation(route: InfoRoute, summary: str) -> JsonSchema:
    media_type = route.content_type.partition(";")[0]
    schema: JsonSchema = {"type": "object" if media_type == "application/json" else "string"}
    responses: JsonSchema = {"200": {"description": summary, **_content(schema, media_type)}}
    if route.can_be_unready:
        responses["503"] = {"description": "Not ready", **_content(schema, media_type)}
    operation: JsonSchema = {"summary": summary, "responses": responses}
    if route.requires_token:
        error_schema = ref(native.ErrorResponse.__name__)
        responses["401"] = {"description": "No valid token", **_content(error_schema)}
        operation["security"] = _SECURITY
    return operation


def _predict_operation(
    route: PredictRoute, summary: str, models: list[str], model: str
) -> JsonSchema:
    bodies = route.codec.body_schemas([model] if model else models)
    error_response = {"description": "An error", **_content(bodies.error)}
    responses: JsonSchema = {"200": {"description": "Predictions", **_content(bodies.response)}}
    responses |= dict.fromkeys(("400", "401", "404", "408", "413", "503"), error_response)
    operation = {
        "summary": summary,
        "requestBody": {"required": True, **_content(bodies.request)},
        "responses": responses,
        "security": _SECURITY,
    }
    return operation if model else operation | {"parameters": [_model_parameter(models)]}


def _model_parameter(models: list[str]) -> JsonSchema:
    return {
        "name": "model",
        "in": "query",
        "required": len(models) > 1,
        "schema": {"enum": models},
        "description": "The model; required if several are served.",
    }


def _content(schema: JsonSchema, media_type: str = "application/json") -> JsonSchema:
    return {"content": {media_type: {"schema": schema}}}
