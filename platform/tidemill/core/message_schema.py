"""One message as a struct: how JSON is decoded to typed values, and how errors are named."""

from collections.abc import Callable, Mapping
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from tidemill.core.spec import ModelSpec
from tidemill.core.spec_sections import FieldSpec, FieldType

Message = bytes | bytearray | memoryview | msgspec.Raw

# An absent number is NaN until the columns are built: JSON has none, so it cannot collide.
_EVENT_TYPES: dict[str, tuple[Any, Any]] = {
    "category": (str | int | bool | None | UnsetType, UNSET),
    "number": (float | None, float("nan")),
    "boolean": (bool | None | UnsetType, UNSET),
}
_ROW_TYPES: dict[str, Any] = {
    "category": str | int | float | bool | None,  # 3.0 is a whole number in JSON, and so is 3
    "number": float | None,
    "boolean": bool | None,
}
_TYPE_NAMES = {
    "bool | int | str | null": "text",
    "float | null": "number",
    "bool | null": "boolean",
    "bool | float": "number or boolean",
    "bool | int | str": "text",
    "bool | int | float | str | null": "text",
    "float": "number",
    "str": "text",
    "bool": "boolean",
    "int": "whole number",
}
DECODE_ERRORS = (
    msgspec.DecodeError,  # and ValidationError
    UnicodeDecodeError,
    RecursionError,
    TypeError,  # None instead of bytes: a tombstone
)


def decoder(types: Mapping[str, FieldType], label: Mapping[str, Any]) -> Callable[[Any], Any]:
    """A decoder to a struct with the fields f0, f1, … in this order, the label last."""
    names = [*types, *label]
    fields: list[Any] = [(f"f{i}", *_EVENT_TYPES[kind]) for i, kind in enumerate(types.values())]
    fields += [(f"f{len(types)}", kind) for kind in label.values()]
    rename = {f"f{i}": name for i, name in enumerate(names)}
    event = msgspec.defstruct("Event", fields, rename=rename, gc=False, kw_only=True)
    return msgspec.json.Decoder(event).decode


def row_type(fields: Mapping[str, FieldSpec]) -> type[msgspec.Struct]:
    """A struct of exactly these fields, f0, f1, … in this order, for rows sent for prediction.

    A null means an unknown value and is valid for any field; only an optional field may be absent.
    """
    struct_fields: list[Any] = []
    for index, field in enumerate(fields.values()):
        json_type = _ROW_TYPES[field.type]
        struct_fields.append(
            (f"f{index}", json_type, None) if field.optional else (f"f{index}", json_type)
        )
    rename = {f"f{index}": name for index, name in enumerate(fields)}
    return msgspec.defstruct(
        "Row", struct_fields, rename=rename, gc=False, kw_only=True, forbid_unknown_fields=True
    )


def label_type(spec: ModelSpec) -> Any:
    if spec.objective == "binary":
        return bool | float
    return str | int | bool if spec.objective == "multiclass" else float


def rejection_reason(error: Exception, value: Message | None) -> str:
    """A short, stable reason why a message is not valid."""
    if value is None:
        return "tombstone"
    if not isinstance(value, msgspec.Raw) and len(value) == 0:
        return "empty value"
    if isinstance(error, UnicodeError):
        return "not UTF-8"
    if isinstance(error, RecursionError):
        return "nested too deeply"
    if not isinstance(error, msgspec.ValidationError):
        return "not JSON"
    return _field_reason(str(error))


def _field_reason(message: str) -> str:
    """msgspec's message, with the field's name in the place of its path `$.name`."""
    problem, _, path = message.partition(" - at `$.")
    if problem.startswith("Object missing required field `"):
        return f"{problem.removeprefix('Object missing required field ')}: missing"
    if not path:
        return "not a JSON object"
    return f"`{path}: {_describe_type_error(problem)}"


def type_error(value: object, field: FieldSpec) -> str | None:
    """Why a JSON value is not valid for the field; None if it is."""
    if field.type == "category" and isinstance(value, float) and not value.is_integer():
        return "expected text, got number"
    try:
        msgspec.convert(value, _ROW_TYPES[field.type])
    except msgspec.ValidationError as error:
        return _describe_type_error(str(error))
    return None


def _describe_type_error(message: str) -> str:
    """msgspec's message about a single value, with tidemill's names of types."""
    if not message.startswith("Expected `"):
        return "out of range"
    expected, got = (part.strip("`") for part in message.removeprefix("Expected ").split(", got "))
    return f"expected {_TYPE_NAMES.get(expected, expected)}, got {_TYPE_NAMES.get(got, got)}"
