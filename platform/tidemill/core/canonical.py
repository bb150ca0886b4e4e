"""One byte form for each record, so that its digest depends on nothing but the record."""

import hashlib
import re
from typing import Any, TypeVar

import msgspec

from tidemill.core.errors import FormatUnsupported

T = TypeVar("T")
FORMAT = 1
"""The `format` number of every record that is stored; a reader refuses any other."""
_CHECKSUM_LINE = re.compile(rb'\{\n  "_sha256": "([0-9a-f]{64})",\n')


def encode(record: object) -> bytes:
    """A record (dataclass, dict, list) as JSON: sorted keys, indented by two, a final newline."""
    return msgspec.json.format(msgspec.json.encode(record, order="sorted"), indent=2) + b"\n"


def decode(data: bytes, kind: type[T]) -> T:
    """The record that `encode` wrote. Raises `msgspec.DecodeError` if it is not one of `kind`."""
    return msgspec.json.decode(data, type=kind)


def format_of(data: bytes) -> int | None:
    """The `format` number of a stored record; None without one, or if it is not a JSON object."""
    try:
        return msgspec.json.decode(data, type=_Formatted).format
    except msgspec.DecodeError:
        return None


def format_error(subject: str, found: int | None, remedy: str) -> FormatUnsupported:
    """The error for a stored record, named by `subject`, whose format is not `FORMAT`."""
    return FormatUnsupported(
        f"{subject} has format {found}; this version of tidemill reads format {FORMAT}.", remedy
    )


class _Formatted(msgspec.Struct):
    format: int | None = None


def digest(data: bytes) -> str:
    """sha256 as 64 hex digits."""
    return hashlib.sha256(data).hexdigest()


def digest_of(record: object) -> str:
    """The digest of a record's byte form."""
    return digest(encode(record))


def with_checksum(data: bytes) -> bytes:
    """A record's bytes (from `encode`, a non-empty object) with their own digest as first key.

    The file itself then reveals damage, even before a later record names its digest.
    """
    assert data.startswith(b"{\n")
    return f'{{\n  "_sha256": "{digest(data)}",\n'.encode() + data[2:]


def verify_checksum(data: bytes) -> bytes | None:
    """The bytes that were passed to `with_checksum`; None if they have changed since."""
    match = _CHECKSUM_LINE.match(data)
    body = b"{\n" + data[match.end() :] if match else b""
    return body if match and digest(body) == match[1].decode() else None


def is_damaged_copy_of(damaged: bytes, data: bytes) -> bool:
    """Whether `damaged` was `with_checksum(data)`: the checksum or all the rest is unchanged."""
    checksummed = with_checksum(data)
    prefix_length = len(checksummed) - len(data) + 2
    return (
        damaged[:prefix_length] == checksummed[:prefix_length]
        or damaged[prefix_length:] == checksummed[prefix_length:]
    )


def to_builtins(record: object) -> Any:
    """A record as dicts, lists, strings and numbers."""
    return msgspec.to_builtins(record)
