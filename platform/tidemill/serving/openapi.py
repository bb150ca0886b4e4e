"""The OpenAPI document of a server, and a plain page that shows it."""

import html
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

import msgspec

from tidemill.core.sections import FieldSpec
from tidemill.core.spec import ModelSpec
from tidemill.serving.protocols import inference, native
from tidemill.serving.schemas import Contract

SERVER = {"name": "tidemill", "version": version("tidemill"), "extensions": []}
Schema = dict[str, Any]

_TYPES: dict[str, list[str]] = {
    "category": ["string", "integer", "boolean", "null"],
    "number": ["number", "null"],
    "boolean": ["boolean", "null"],
}
_REF = "#/components/schemas/{name}"
_STRUCTS = (native.Answer, native.Complaint, inference.Request, inference.Response)


def document(specs: Mapping[str, ModelSpec], contracts: Mapping[str, Contract]) -> bytes:
    """The document as JSON."""
    _, components = msgspec.json.schema_components(_STRUCTS, ref_template=_REF)
    paths = dict(_LOOKS)
    for name, contract in contracts.items():
        components[f"rows_{name}"] = _rows(contract)
        components[f"request_{name}"] = _request(name)
        told = f"{specs[name].objective} {specs[name].label}"
        paths |= {
            f"/models/{name}": _get(f"Model {name} in service"),
            f"/models/{name}/predict": _post(
                f"Predict {told}", {"$ref": f"#/components/schemas/request_{name}"}, "Answer"
            ),
            f"/v2/models/{name}": _get(f"Model {name} (Open Inference Protocol)"),
            f"/v2/models/{name}/ready": _get(f"Whether model {name} is served", also=503),
            f"/v2/models/{name}/infer": _post(
                f"Predict {told} (Open Inference Protocol): a tensor [rows] a field",
                _ref("Request"),
                "Response",
            ),
        }
    paths["/invocations"] = _invocations(contracts)
    return msgspec.json.encode(
        {
            "openapi": "3.1.0",
            "info": {"title": "tidemill serve", "version": SERVER["version"]},
            "paths": paths,
            "components": {
                "schemas": components,
                "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
            },
        }
    )


def page(data: bytes) -> bytes:
    """The document as a page without scripts or anything from elsewhere."""
    told = msgspec.json.decode(data)
    rows = [
        f"<tr><td>{method.upper()}</td><td><code>{html.escape(path)}</code></td>"
        f"<td>{html.escape(operation['summary'])}</td></tr>"
        for path, methods in told["paths"].items()
        for method, operation in methods.items()
    ]
    schemas = [
        f"<h3>{html.escape(name)}</h3><pre>{_pretty(schema)}</pre>"
        for name, schema in told["components"]["schemas"].items()
    ]
    return (
        "<!doctype html><html lang=en><meta charset=utf-8><title>tidemill serve</title>"
        "<style>body{font-family:sans-serif;margin:2em}td{padding:.2em 1em .2em 0}</style>"
        f"<h1>tidemill serve {html.escape(told['info']['version'])}</h1><table>{''.join(rows)}"
        f"</table><h2>Schemas</h2>{''.join(schemas)}<p><a href=/openapi.json>openapi.json</a>"
    ).encode()


def _pretty(schema: Schema) -> str:
    return html.escape(msgspec.json.format(msgspec.json.encode(schema), indent=2).decode())


def _ref(name: str) -> Schema:
    return {"$ref": _REF.format(name=name)}


def _rows(contract: Contract) -> Schema:
    required = [name for name, field in contract.fields.items() if not field.optional]
    row = {
        "type": "object",
        "properties": {name: _value(field) for name, field in contract.fields.items()},
        "required": required,
        "additionalProperties": False,
    }
    return {"type": "array", "items": row, "minItems": 1, "maxItems": contract.max_rows}


def _value(field: FieldSpec) -> Schema:
    return {"type": _TYPES[field.type]}


def _request(name: str) -> Schema:
    return {
        "type": "object",
        "properties": {"rows": _ref(f"rows_{name}"), "id": {"type": ["string", "null"]}},
        "required": ["rows"],
        "additionalProperties": False,
    }


def _invocations(contracts: Mapping[str, Contract]) -> Schema:
    rows = [_ref(f"rows_{name}") for name in contracts]
    either = rows[0] if len(rows) == 1 else {"anyOf": rows}
    request: Schema = {
        "type": "object",
        "properties": {"dataframe_records": either},
        "required": ["dataframe_records"],
        "additionalProperties": False,
    }
    post = _post("MLflow's scoring protocol, for one of its forms", request, None)
    post["post"]["parameters"] = [
        {
            "name": "model",
            "in": "query",
            "required": len(rows) > 1,
            "schema": {"enum": list(contracts)},
            "description": "Which model, where several are served.",
        }
    ]
    return post


def _content(schema: Schema, kind: str = "application/json") -> Schema:
    return {"content": {kind: {"schema": schema}}}


def _get(summary: str, kind: str = "application/json", also: int | None = None) -> Schema:
    schema: Schema = {"type": "object" if kind == "application/json" else "string"}
    responses: Schema = {"200": {"description": summary, **_content(schema, kind)}}
    if also is not None:
        responses[str(also)] = {"description": "Not now", **_content(schema, kind)}
    responses["401"] = {"description": "No token", **_content(_ref("Complaint"))}
    return {"get": {"summary": summary, "responses": responses, "security": [{}, {"token": []}]}}


def _probe(summary: str, also: int | None = None) -> Schema:
    told = _get(summary, also=also)
    del told["get"]["responses"]["401"], told["get"]["security"]
    return told


def _post(summary: str, request: Schema, answer: str | None) -> Schema:
    trouble = {"description": "An error", **_content({"type": "object"})}
    if answer == "Answer":
        trouble = {"description": "An error", **_content(_ref("Complaint"))}
    good = _ref(answer) if answer else {"type": "object", "required": ["predictions"]}
    responses: Schema = {"200": {"description": "Predictions", **_content(good)}}
    responses |= dict.fromkeys(("400", "401", "404", "408", "413", "503"), trouble)
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


_LOOKS: Schema = {
    "/models": _get("What is in service, how old and how stale it is"),
    "/metrics": _get("Metrics for Prometheus", "text/plain"),
    "/openapi.json": _get("This document"),
    "/docs": _get("This document for people", "text/html"),
    "/v2": _get("The server (Open Inference Protocol)"),
    "/v2/health/live": _probe("Whether the server lives"),
    "/v2/health/ready": _probe("Whether every configured model is served", 503),
    "/ping": _probe("As /v2/health/ready", 503),
    "/health": _probe("As /v2/health/ready", 503),
}
