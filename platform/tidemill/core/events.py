"""One message as a struct: how JSON becomes typed values, and what is wrong where it does not."""

from collections.abc import Callable, Mapping
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from tidemill.core.sections import FieldSpec, FieldType
from tidemill.core.spec import ModelSpec

Message = bytes | bytearray | memoryview | msgspec.Raw

# An absent number is NaN until the columns are built: JSON has none, so it cannot collide.
_TYPES: dict[str, tuple[Any, Any]] = {
    "category": (str | int | bool | None | UnsetType, UNSET),
    "number": (float | None, float("nan")),
    "boolean": (bool | None | UnsetType, UNSET),
}
_KNOWN: dict[str, Any] = {
    "category": str | int | float | bool | None,  # 3.0 is a whole number in JSON, and so is 3
    "number": float | None,
    "boolean": bool | None,
}
_WORDS = {
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
MALFORMED = (
    msgspec.DecodeError,  # and ValidationError
    UnicodeDecodeError,
    UnicodeEncodeError,
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


def row_type(fields: Mapping[str, FieldSpec]) -> type[msgspec.Struct]:
    """A struct of exactly these fields, f0, f1, … in the order given, as they are asked about.

    A null is a value that is not known, whatever the field; only an optional one may be absent.
    """
    told: list[Any] = []
    for index, field in enumerate(fields.values()):
        known = _KNOWN[field.type]
        told.append((f"f{index}", known, None) if field.optional else (f"f{index}", known))
    rename = {f"f{index}": name for index, name in enumerate(fields)}
    return msgspec.defstruct(
        "Row", told, rename=rename, gc=False, kw_only=True, forbid_unknown_fields=True
    )


def label_type(spec: ModelSpec) -> Any:
    if spec.objective == "binary":
        return bool | float
    return str | int | bool if spec.objective == "multiclass" else float


def check_texts(event: Any, types: Mapping[str, FieldType]) -> None:
    """Raise `UnicodeEncodeError` for a text with half a surrogate pair, which no column holds."""
    for index, kind in enumerate(types.values()):
        value = getattr(event, f"f{index}")
        if kind == "category" and isinstance(value, str):
            value.encode()


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
    return f"`{path}: {_mismatch(what)}"


def mismatch(value: object, field: FieldSpec) -> str | None:
    """Why a value of JSON is none of the field; None where it is one."""
    if field.type == "category" and isinstance(value, float) and not value.is_integer():
        return "expected text, got number"
    try:
        msgspec.convert(value, _KNOWN[field.type])
    except msgspec.ValidationError as error:
        return _mismatch(str(error))
    return None


def _mismatch(what: str) -> str:
    """msgspec's message about a single value, in our words."""
    if not what.startswith("Expected `"):
        return "out of range"
    expected, got = (part.strip("`") for part in what.removeprefix("Expected ").split(", got "))
    return f"expected {_WORDS.get(expected, expected)}, got {_WORDS.get(got, got)}"
