"""MLflow's scoring protocol: `dataframe_split`, `dataframe_records`, `inputs`, `instances`."""

from collections.abc import Sequence
from typing import Any

import msgspec

from tidemill.core.errors import RequestInvalid, TidemillError
from tidemill.serving.model_state import ServedModel
from tidemill.serving.predictor import Prediction
from tidemill.serving.protocols.common import (
    BodySchemas,
    JsonSchema,
    PredictionRequest,
    ref,
    rows_name,
)
from tidemill.serving.schemas import RequestSchema, decode_json

INPUT_FORMATS = ("dataframe_split", "dataframe_records", "inputs", "instances")
_REMEDY = f"Send a JSON object with one of {', '.join(INPUT_FORMATS)}."


class InvocationsResponse(msgspec.Struct, frozen=True):
    """The predictions as MLflow's clients read them, and the model that made them."""

    predictions: Sequence[float | list[float]]
    model: str
    digest: str
    version: int


class MlflowCodec:
    """A `Codec` for MLflow's scoring protocol."""

    def __init__(self, schema: RequestSchema) -> None:
        self._schema = schema

    def decode(self, body: bytes) -> PredictionRequest:
        payload = decode_json(body)
        if not isinstance(payload, dict):
            raise RequestInvalid("The body is not a JSON object.", _REMEDY)
        formats = [key for key in payload if key != "params"]
        if len(formats) != 1 or formats[0] not in INPUT_FORMATS:
            format_names = ", ".join(repr(key[:80]) for key in formats) or "none"
            raise RequestInvalid(
                f"The body must have exactly one input format; its keys: {format_names}.", _REMEDY
            )
        if payload.get("params"):
            raise RequestInvalid("The models do not support `params`.", "Leave `params` out.")
        return PredictionRequest(
            self._schema.convert_rows(_records(formats[0], payload[formats[0]]))
        )

    def encode(
        self, request: PredictionRequest, served: ServedModel, predictions: Sequence[Prediction]
    ) -> bytes:
        model, version = self._schema.model, served.entry.seq
        return msgspec.json.encode(InvocationsResponse(predictions, model, served.digest, version))

    @staticmethod
    def encode_error(error: TidemillError) -> bytes:
        return msgspec.json.encode({"error_code": "BAD_REQUEST", "message": str(error)})

    @staticmethod
    def body_schemas(models: Sequence[str]) -> BodySchemas:
        rows = [ref(rows_name(model)) for model in models]
        request: JsonSchema = {
            "type": "object",
            "properties": {"dataframe_records": rows[0] if len(rows) == 1 else {"anyOf": rows}},
            "required": ["dataframe_records"],
            "additionalProperties": False,
        }
        response: JsonSchema = {"type": "object", "required": ["predictions"]}
        return BodySchemas(request, response, {"type": "object"})


def _records(input_format: str, payload: Any) -> Any:
    """One object per row, from any of the formats."""
    if input_format == "dataframe_split":
        return _from_split(payload)
    if isinstance(payload, dict) and input_format in ("inputs", "instances"):
        return _from_columns(input_format, payload)
    return payload


def _from_split(payload: Any) -> list[dict[str, Any]]:
    is_valid = isinstance(payload, dict) and payload.keys() <= {"columns", "data", "index"}
    columns, data = (payload.get("columns"), payload.get("data")) if is_valid else (None, None)
    if not isinstance(columns, list) or not isinstance(data, list):
        raise RequestInvalid(
            "`dataframe_split` does not have lists `columns` and `data`.",
            "Send the result of pandas' `to_dict(orient='split')`.",
        )
    names = _column_names(columns)
    for number, row in enumerate(data):
        if not isinstance(row, list) or len(row) != len(names):
            raise RequestInvalid(
                f"`dataframe_split`: row {number} is not a list of {len(names)} values.",
                "Send one value per column.",
            )
    return [dict(zip(names, row, strict=True)) for row in data]


def _column_names(columns: list[Any]) -> list[str]:
    if not all(isinstance(name, str) for name in columns) or len(set(columns)) < len(columns):
        raise RequestInvalid(
            "`dataframe_split`: `columns` are not distinct names.", "Name each field once."
        )
    return columns


def _from_columns(input_format: str, columns: dict[str, Any]) -> list[dict[str, Any]]:
    """Rows from one list per field; a single value is a list of one, as in MLflow."""
    lists = {name: value if isinstance(value, list) else [value] for name, value in columns.items()}
    lengths = {len(values) for values in lists.values()}
    if len(lengths) != 1:
        raise RequestInvalid(
            f"`{input_format}` has no fields, or fields of different lengths.",
            "Send the same number of values for each field.",
        )
    return [dict(zip(lists, row, strict=True)) for row in zip(*lists.values(), strict=True)]
