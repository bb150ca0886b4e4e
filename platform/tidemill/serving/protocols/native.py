"""tidemill's own protocol: typed rows by field name in, predictions out."""

from collections.abc import Sequence
from typing import Any

import msgspec

from tidemill.core.errors import RequestInvalid, TidemillError
from tidemill.serving.predictor import Prediction
from tidemill.serving.protocols.common import Asked
from tidemill.serving.schemas import Contract, Fault, RowsInvalid, decode_json
from tidemill.serving.slot import Served

_REMEDY = 'Send {"rows": [{FIELD: VALUE, …}, …]}, and an "id" if you like.'
_encode = msgspec.json.Encoder().encode


class Answer(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """Predictions in the order of the rows, and the model that made them.

    `version` is the `seq` of the ledger entry that put the model of this digest into service.
    """

    model: str
    digest: str
    version: int
    predictions: Sequence[float | list[float]]
    id: str | None = None


class Trouble(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is wrong: the fault's name, the sentences, and the first faults of fields."""

    type: str
    message: str
    remedy: str
    fields: tuple[Fault, ...] = ()


class Complaint(msgspec.Struct, frozen=True):
    """The body of every answer that is an error."""

    error: Trouble


class Native:
    """A `Speaker`."""

    def __init__(self, contract: Contract) -> None:
        self._contract = contract
        self._decode = contract.decoder(_envelope)

    def read(self, body: bytes) -> Asked:
        try:
            told = self._decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise self._wrong(body) from error
        return Asked(self._contract.counted(told.rows), told.id)

    def answer(self, asked: Asked, served: Served, told: Sequence[Prediction]) -> bytes:
        version = served.entry.seq
        return _encode(Answer(self._contract.model, served.digest, version, told, asked.id))

    def _wrong(self, body: bytes) -> Exception:
        told = decode_json(body)
        if not isinstance(told, dict):
            return RequestInvalid("The body is no JSON object.", _REMEDY)
        for key in told:
            if key not in ("rows", "id"):
                return RequestInvalid(f"The body has an unknown key {key[:80]!r}.", _REMEDY)
        if "rows" not in told:
            return RequestInvalid("The body has no `rows`.", _REMEDY)
        if not isinstance(told.get("id"), str | None):
            return RequestInvalid("The body's `id` is no text.", _REMEDY)
        return self._contract.wrong(told["rows"])


def complain(error: TidemillError) -> bytes:
    """An error as a `Complaint`."""
    faults = error.faults if isinstance(error, RowsInvalid) else ()
    name = "RowInvalid" if isinstance(error, RowsInvalid) else type(error).__name__
    return _encode(Complaint(Trouble(name, error.message, error.remedy, faults)))


def _envelope(rows: Any) -> type[msgspec.Struct]:
    fields: list[Any] = [("rows", rows), ("id", str | None, None)]
    return msgspec.defstruct("Request", fields, forbid_unknown_fields=True)
