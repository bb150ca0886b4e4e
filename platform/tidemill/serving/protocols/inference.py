"""The Open Inference Protocol, version 2: one input tensor per field, one output tensor."""

from collections.abc import Sequence
from typing import Any, Literal

import msgspec

from tidemill.core.errors import RequestInvalid, TidemillError
from tidemill.core.spec_sections import FieldType
from tidemill.serving.model_state import ServedModel
from tidemill.serving.predictor import Prediction
from tidemill.serving.protocols.common import BodySchemas, PredictionRequest, ref
from tidemill.serving.schemas import RequestSchema, decode_json

OUTPUT_NAME = "prediction"
DATATYPES: dict[FieldType, str] = {"category": "BYTES", "number": "FP64", "boolean": "BOOL"}
"""The datatype of each type of field; `_ACCEPTED` lists the others that are accepted."""

_INTEGERS = {f"{sign}INT{bits}" for sign in ("", "U") for bits in (8, 16, 32, 64)}
_ACCEPTED: dict[FieldType, set[str]] = {
    "category": {"BYTES", "BOOL"} | _INTEGERS,
    "number": {"FP16", "FP32", "FP64"} | _INTEGERS,
    "boolean": {"BOOL"},
}
_REMEDY = "Send an inference request of the Open Inference Protocol, with the tensors as JSON."
Parameters = dict[str, Any]


class RequestInput(msgspec.Struct):
    """The values of a field: shape [rows] or [rows, 1]; an unknown value is null."""

    name: str
    shape: list[int]
    datatype: str
    data: list[Any]
    parameters: Parameters | None = None


class RequestOutput(msgspec.Struct):
    """A requested output."""

    name: str
    parameters: Parameters | None = None


class InferenceRequest(msgspec.Struct):
    """An inference request."""

    inputs: list[RequestInput]
    id: str | None = None
    parameters: Parameters | None = None
    outputs: list[RequestOutput] | None = None


class ResponseOutput(msgspec.Struct):
    """The predictions, row by row: shape [rows] or [rows, classes]."""

    name: str
    shape: list[int]
    datatype: Literal["FP64"]
    data: list[float]


class InferenceResponse(msgspec.Struct, omit_defaults=True):
    """An inference response; `parameters` holds the model's digest."""

    model_name: str
    model_version: str
    outputs: list[ResponseOutput]
    parameters: dict[str, str]
    id: str | None = None


class OpenInferenceCodec:
    """A `Codec` for the Open Inference Protocol."""

    def __init__(self, schema: RequestSchema) -> None:
        self._schema = schema

    def decode(self, body: bytes) -> PredictionRequest:
        try:
            request = msgspec.convert(decode_json(body), InferenceRequest)
        except (msgspec.ValidationError, RecursionError) as error:
            raise RequestInvalid(f"The request is not valid: {error}.", _REMEDY) from error
        for output in request.outputs or ():
            if output.name != OUTPUT_NAME:
                raise RequestInvalid(
                    f"There is no output {output.name[:80]!r}.",
                    f"The only output is `{OUTPUT_NAME}`.",
                )
        columns: dict[str, list[Any]] = {}
        for tensor in request.inputs:
            columns[tensor.name] = self._column(tensor, columns)
        if len({len(values) for values in columns.values()}) > 1:
            raise RequestInvalid("The inputs have different numbers of rows.", _REMEDY)
        rows = zip(*columns.values(), strict=True)
        records = [dict(zip(columns, row, strict=True)) for row in rows]
        return PredictionRequest(self._schema.convert_rows(records), request.id)

    def encode(
        self, request: PredictionRequest, served: ServedModel, predictions: Sequence[Prediction]
    ) -> bytes:
        first = predictions[0]
        if isinstance(first, list):
            shape = [len(predictions), len(first)]
            data = [value for row in predictions for value in row]  # type: ignore[union-attr]
        else:
            shape, data = [len(predictions)], predictions  # type: ignore[assignment]
        return msgspec.json.encode(
            InferenceResponse(
                self._schema.model,
                str(served.entry.seq),
                [ResponseOutput(OUTPUT_NAME, shape, "FP64", data)],
                {"digest": served.digest},
                request.id,
            )
        )

    @staticmethod
    def encode_error(error: TidemillError) -> bytes:
        return msgspec.json.encode({"error": str(error)})

    @staticmethod
    def body_schemas(models: Sequence[str]) -> BodySchemas:
        return BodySchemas(
            ref(InferenceRequest.__name__), ref(InferenceResponse.__name__), {"type": "object"}
        )

    def _column(self, tensor: RequestInput, columns: dict[str, list[Any]]) -> list[Any]:
        name = tensor.name
        field = self._schema.fields.get(name)
        if name in columns:
            raise RequestInvalid(f"Input {name[:80]!r} is given twice.", "Send each input once.")
        if field is not None and tensor.datatype not in _ACCEPTED[field.type]:
            raise RequestInvalid(
                f"Input {name!r} has datatype {tensor.datatype[:20]!r}; it is a {field.type}.",
                f"Send it as {DATATYPES[field.type]}.",
            )
        data = _flatten(tensor)
        if tensor.shape not in ([len(data)], [len(data), 1]):
            raise RequestInvalid(
                f"Input {name[:80]!r} has {len(data)} values, which does not match its shape.",
                "The shape is [rows] or [rows, 1].",
            )
        return data


def metadata(schema: RequestSchema, versions: list[str], outputs: int) -> dict[str, Any]:
    """The protocol's metadata of a model."""
    return {
        "name": schema.model,
        "versions": versions,
        "platform": "tidemill_lightgbm",
        "inputs": [
            {"name": name, "datatype": DATATYPES[field.type], "shape": [-1]}
            for name, field in schema.fields.items()
        ],
        "outputs": [
            {
                "name": OUTPUT_NAME,
                "datatype": "FP64",
                "shape": [-1] if outputs == 1 else [-1, outputs],
            }
        ],
    }


def _flatten(tensor: RequestInput) -> list[Any]:
    """The values; in a nested [rows, 1] tensor, each row is a list of one."""
    if len(tensor.shape) == 2 and all(isinstance(x, list) and len(x) == 1 for x in tensor.data):
        return [row[0] for row in tensor.data]
    return tensor.data
