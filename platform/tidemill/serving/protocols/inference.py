"""The Open Inference Protocol, version 2: a tensor a field in, one tensor out."""

from collections.abc import Sequence
from typing import Any, Literal

import msgspec

from tidemill.core.errors import RequestInvalid, TidemillError
from tidemill.core.sections import FieldType
from tidemill.serving.predictor import Prediction
from tidemill.serving.protocols.common import Asked
from tidemill.serving.schemas import Contract, decode_json
from tidemill.serving.slot import Served

OUTPUT = "prediction"
DATATYPES: dict[FieldType, str] = {"category": "BYTES", "number": "FP64", "boolean": "BOOL"}
"""What each type of field is called; `_ACCEPTED` says what else it may come as."""

_INTEGERS = {f"{sign}INT{bits}" for sign in ("", "U") for bits in (8, 16, 32, 64)}
_ACCEPTED: dict[FieldType, set[str]] = {
    "category": {"BYTES", "BOOL"} | _INTEGERS,
    "number": {"FP16", "FP32", "FP64"} | _INTEGERS,
    "boolean": {"BOOL"},
}
_REMEDY = "Send an inference request of the Open Inference Protocol, its tensors as JSON."
Parameters = dict[str, Any]


class Tensor(msgspec.Struct):
    """A field's values: shape [rows] or [rows, 1]; a value that is not known is null."""

    name: str
    shape: list[int]
    datatype: str
    data: list[Any]
    parameters: Parameters | None = None


class Wanted(msgspec.Struct):
    """An output that is asked for."""

    name: str
    parameters: Parameters | None = None


class Request(msgspec.Struct):
    """An inference request."""

    inputs: list[Tensor]
    id: str | None = None
    parameters: Parameters | None = None
    outputs: list[Wanted] | None = None


class Output(msgspec.Struct):
    """The predictions, row by row: shape [rows], or [rows, classes]."""

    name: str
    shape: list[int]
    datatype: Literal["FP64"]
    data: list[float]


class Response(msgspec.Struct, omit_defaults=True):
    """An inference response; `parameters` has the model's digest."""

    model_name: str
    model_version: str
    outputs: list[Output]
    parameters: dict[str, str]
    id: str | None = None


class Inference:
    """A `Speaker`."""

    def __init__(self, contract: Contract) -> None:
        self._contract = contract

    def read(self, body: bytes) -> Asked:
        try:
            request = msgspec.convert(decode_json(body), Request)
        except (msgspec.ValidationError, RecursionError) as error:
            raise RequestInvalid(f"The request cannot be read: {error}.", _REMEDY) from error
        for wanted in request.outputs or ():
            if wanted.name != OUTPUT:
                raise RequestInvalid(
                    f"There is no output {wanted.name[:80]!r}.", f"The output is `{OUTPUT}`."
                )
        columns: dict[str, list[Any]] = {}
        for tensor in request.inputs:
            columns[tensor.name] = self._column(tensor, columns)
        if len({len(values) for values in columns.values()}) > 1:
            raise RequestInvalid("The inputs differ in their numbers of rows.", _REMEDY)
        rows = zip(*columns.values(), strict=True)
        records = [dict(zip(columns, row, strict=True)) for row in rows]
        return Asked(self._contract.rows(records), request.id)

    def answer(self, asked: Asked, served: Served, told: Sequence[Prediction]) -> bytes:
        first = told[0]
        if isinstance(first, list):
            shape = [len(told), len(first)]
            data = [value for row in told for value in row]  # type: ignore[union-attr]
        else:
            shape, data = [len(told)], told  # type: ignore[assignment]
        return msgspec.json.encode(
            Response(
                self._contract.model,
                str(served.entry.seq),
                [Output(OUTPUT, shape, "FP64", data)],
                {"digest": served.digest},
                asked.id,
            )
        )

    def _column(self, tensor: Tensor, before: dict[str, list[Any]]) -> list[Any]:
        name = tensor.name
        field = self._contract.fields.get(name)
        if name in before:
            raise RequestInvalid(f"Input {name[:80]!r} comes twice.", "Send each input once.")
        if field is not None and tensor.datatype not in _ACCEPTED[field.type]:
            raise RequestInvalid(
                f"Input {name!r} is of datatype {tensor.datatype[:20]!r}; it is a {field.type}.",
                f"Send it as {DATATYPES[field.type]}.",
            )
        data = _flat(tensor)
        if tensor.shape not in ([len(data)], [len(data), 1]):
            raise RequestInvalid(
                f"Input {name[:80]!r} has {len(data)} values, which is not its shape.",
                "The shape is [rows] or [rows, 1].",
            )
        return data


def complain(error: TidemillError) -> bytes:
    """An error as the protocol tells it."""
    return msgspec.json.encode({"error": str(error)})


def metadata(contract: Contract, versions: list[str], outputs: int) -> dict[str, Any]:
    """What the protocol tells of a model."""
    return {
        "name": contract.model,
        "versions": versions,
        "platform": "tidemill_lightgbm",
        "inputs": [
            {"name": name, "datatype": DATATYPES[field.type], "shape": [-1]}
            for name, field in contract.fields.items()
        ],
        "outputs": [
            {"name": OUTPUT, "datatype": "FP64", "shape": [-1] if outputs == 1 else [-1, outputs]}
        ],
    }


def _flat(tensor: Tensor) -> list[Any]:
    """The values; the rows of a nested [rows, 1] tensor are lists of one."""
    if len(tensor.shape) == 2 and all(isinstance(x, list) and len(x) == 1 for x in tensor.data):
        return [row[0] for row in tensor.data]
    return tensor.data
