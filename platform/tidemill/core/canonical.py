"""One byte form for every record, so that a digest means the record and nothing else."""

import hashlib
import re
from typing import Any, TypeVar

import msgspec

T = TypeVar("T")
_CHECKSUM_LINE = re.compile(rb'\{\n  "_sha256": "([0-9a-f]{64})",\n')


def encode(record: object) -> bytes:
    """A record (dataclass, dict, list) as JSON: sorted keys, two spaces, a final newline."""
    return msgspec.json.format(msgspec.json.encode(record, order="sorted"), indent=2) + b"\n"


def decode(data: bytes, kind: type[T]) -> T:
    """The record that `encode` wrote. Raises `msgspec.ValidationError` where it does not fit."""
    return msgspec.json.decode(data, type=kind)


def digest(data: bytes) -> str:
    """sha256 as 64 hex digits."""
    return hashlib.sha256(data).hexdigest()


def digest_of(record: object) -> str:
    """The digest of a record's byte form."""
    return digest(encode(record))


def with_checksum(data: bytes) -> bytes:
    """A record's bytes (`encode`'s, of an object with keys) with their own digest as first key.

    So damage shows in the file itself, even before any later record names its digest.
    """
    assert data.startswith(b"{\n")
    return f'{{\n  "_sha256": "{digest(data)}",\n'.encode() + data[2:]


def verify_checksum(data: bytes) -> bytes | None:
    """The bytes that `seal` was given; None where they are no longer those."""
    match = _CHECKSUM_LINE.match(data)
    body = b"{\n" + data[match.end() :] if match else b""
    return body if match and digest(body) == match[1].decode() else None


def is_damaged_copy_of(damaged: bytes, data: bytes) -> bool:
    """Whether damaged sealed bytes were once `seal(data)`: by their seal, or by all the rest."""
    checksummed = with_checksum(data)
    prefix_length = len(checksummed) - len(data) + 2
    return (
        damaged[:prefix_length] == checksummed[:prefix_length]
        or damaged[prefix_length:] == checksummed[prefix_length:]
    )


def to_builtins(record: object) -> Any:
    """A record as dicts, lists, strings and numbers."""
    return msgspec.to_builtins(record)
