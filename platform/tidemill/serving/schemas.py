"""What a model may be asked: rows of exactly the fields of its `defs.yaml`, and what is wrong."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from tidemill.core.errors import RequestInvalid, RowInvalid
from tidemill.core.events import type_error, row_type
from tidemill.core.sections import FieldSpec

TOLD = 20
"""Faults, at most, that an answer names."""

Rows = Sequence[msgspec.Struct]
_REMEDY = "Send the fields of the model's defs.yaml; a value that is not known is null."


@dataclass(frozen=True)
class Fault:
    """What is wrong with one field of one row, counted from 0; no field: with the row."""

    row: int
    field: str | None
    problem: str


class RowsInvalid(RowInvalid):
    """Rows do not fit the model's fields; `faults` names the first of them, one a field."""

    def __init__(self, faults: Sequence[Fault], remedy: str = _REMEDY) -> None:
        first = faults[0]
        where = f"row {first.row}" + (f", field {first.field!r}" if first.field else "")
        more = f", and {len(faults) - 1} more" if len(faults) > 1 else ""
        super().__init__(f"The rows do not fit: {where}: {first.problem}{more}.", remedy)
        self.faults = tuple(faults)


class TooManyRows(RequestInvalid):
    """A request asks for more rows than the server takes."""


class Contract:
    """The rows that a model answers; it does not change while the server runs.

    A field that is not optional must be there, in each row, and may be null. Raises
    `TooManyRows` beyond `max_rows`, `RequestInvalid` without a row, `RowsInvalid`.
    """

    def __init__(self, model: str, fields: Mapping[str, FieldSpec], max_rows: int) -> None:
        self.model = model
        self.fields = dict(fields)
        self.max_rows = max_rows
        self.row = row_type(fields)
        self._list = list[self.row]  # type: ignore[name-defined]

    def decoder(self, envelope: Callable[[Any], type[msgspec.Struct]]) -> Callable[[Any], Any]:
        """A decoder of a JSON body around the rows' list type."""
        return msgspec.json.Decoder(envelope(self._list)).decode

    def rows(self, told: Any) -> Rows:
        """Rows of objects that were decoded already."""
        try:
            return self.counted(msgspec.convert(told, self._list))
        except (msgspec.ValidationError, RecursionError) as error:
            raise self.wrong(told) from error

    def counted(self, rows: Rows) -> Rows:
        """The rows, if they are not too many and not none."""
        if len(rows) > self.max_rows:
            raise TooManyRows(
                f"The request asks for {len(rows)} rows; the server takes {self.max_rows}.",
                "Ask in parts, or raise TIDEMILL_SERVE__MAX_ROWS.",
            )
        if not rows:
            raise RequestInvalid("The request asks for no row.", "Send at least one.")
        return rows

    def no_text(self, rows: Rows) -> Exception:
        """What is wrong with rows of which a category holds no text."""
        return self.wrong(
            [dict(zip(self.fields, msgspec.structs.astuple(r), strict=True)) for r in rows]
        )

    def wrong(self, told: Any) -> Exception:
        """What is wrong with rows that could not be decoded."""
        if not isinstance(told, list):
            return RequestInvalid("The rows are no list.", "Send a list of JSON objects.")
        if len(told) > self.max_rows or not told:
            return _raised(self.counted, told)
        faults: list[Fault] = []
        for number, row in enumerate(told):
            faults += self._faults(number, row)
            if len(faults) >= TOLD:
                break
        return RowsInvalid(faults[:TOLD] or [Fault(0, None, "cannot be used")])

    def _faults(self, number: int, row: Any) -> list[Fault]:
        if not isinstance(row, dict):
            return [Fault(number, None, "not a JSON object")]
        faults = []
        for name, field in self.fields.items():
            if name in row:
                problem = type_error(row[name], field)
            else:
                problem = None if field.optional else "missing"
            if problem is not None:
                faults.append(Fault(number, name, problem))
        unknown = (name for name in row if name not in self.fields)
        return faults + [Fault(number, name, "unknown field") for name in unknown]


def decode_json(body: bytes) -> Any:
    """Any JSON. Raises `RequestInvalid`."""
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RequestInvalid(f"The body is not JSON: {error}.", "Send a JSON object.") from error


def _raised(call: Callable[[Any], Any], value: Any) -> Exception:
    try:
        call(value)
    except Exception as error:
        return error
    raise AssertionError("nothing is wrong")
