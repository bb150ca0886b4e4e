"""One message as a struct: how JSON becomes typed values, and what is wrong where it does not."""

from collections.abc import Callable, Mapping
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from tidemill.core.sections import FieldType
from tidemill.core.spec import ModelSpec

Message = bytes | bytearray | memoryview | msgspec.Raw

# An absent number is NaN until the columns are built: JSON has none, so it cannot collide.
_TYPES: dict[str, tuple[Any, Any]] = {
    "category": (str | int | bool | None | UnsetType, UNSET),
    "number": (float | None, float("nan")),
    "boolean": (bool | None | UnsetType, UNSET),
}
_WORDS = {
    "bool | int | str | null": "text",
    "float | null": "number",
    "bool | null": "boolean",
    "bool | float": "number or boolean",
    "bool | int | str": "text",
    "float": "number",
    "str": "text",
    "bool": "boolean",
    "int": "whole number",
}
MALFORMED = (
    msgspec.DecodeError,  # and ValidationError
    UnicodeDecodeError,
    RecursionError,
    TypeError,  # no bytes at all: a tombstone
)


def decoder(types: Mapping[str, FieldType], label: Mapping[str, Any]) -> Callable[[Any], Any]:
    """A decoder into a struct with the fields f0, f1, … in the order given, the label last."""
    names = [*types, *label]
    fields: list[Any] = [(f"f{i}", *_TYPES[kind]) for i, kind in enumerate(types.values())]
    fields += [(f"f{len(types)}", kind) for kind in label.values()]
    rename = {f"f{i}": name for i, name in enumerate(names)}
    event = msgspec.defstruct("Event", fields, rename=rename, gc=False, kw_only=True)
    return msgspec.json.Decoder(event).decode


def label_type(spec: ModelSpec) -> Any:
    if spec.objective == "binary":
        return bool | float
    return str | int | bool if spec.objective == "multiclass" else float


def reason(error: Exception, value: Message | None) -> str:
    """A short, stable name for what is wrong with a message."""
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


def _field_reason(told: str) -> str:
    """`$.name` says what fits: msgspec's message in terms of the field."""
    what, _, path = told.partition(" - at `$.")
    if what.startswith("Object missing required field `"):
        return f"{what.removeprefix('Object missing required field ')}: missing"
    if not path:
        return "not a JSON object"
    if not what.startswith("Expected `"):
        return f"`{path}: out of range"
    expected, got = (part.strip("`") for part in what.removeprefix("Expected ").split(", got "))
    return f"`{path}: expected {_WORDS.get(expected, expected)}, got {_WORDS.get(got, got)}"
