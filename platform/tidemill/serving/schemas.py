"""What a model may be asked: rows of exactly the fields of its `defs.yaml`, and what is wrong."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from tidemill.core.errors import RequestInvalid, RowInvalid
from tidemill.core.message_schema import row_type, type_error
from tidemill.core.spec_sections import FieldSpec

MAX_REPORTED_ERRORS = 20
"""Faults, at most, that an answer names."""

Rows = Sequence[msgspec.Struct]
_REMEDY = "Send the fields of the model's defs.yaml; a value that is not known is null."


@dataclass(frozen=True)
class FieldError:
    """What is wrong with one field of one row, counted from 0; no field: with the row."""

    row: int
    field: str | None
    problem: str


class RowsInvalid(RowInvalid):
    """Rows do not fit the model's fields; `faults` names the first of them, one a field."""

    def __init__(self, errors: Sequence[FieldError], remedy: str = _REMEDY) -> None:
        first = errors[0]
        location = f"row {first.row}" + (f", field {first.field!r}" if first.field else "")
        suffix = f", and {len(errors) - 1} more" if len(errors) > 1 else ""
        super().__init__(f"The rows do not fit: {location}: {first.problem}{suffix}.", remedy)
        self.errors = tuple(errors)


class TooManyRows(RequestInvalid):
    """A request asks for more rows than the server takes."""


class RequestSchema:
    """The rows that a model answers; it does not change while the server runs.

    A field that is not optional must be there, in each row, and may be null. Raises
    `TooManyRows` beyond `max_rows`, `RequestInvalid` without a row, `RowsInvalid`.
    """

    def __init__(self, model: str, fields: Mapping[str, FieldSpec], max_rows: int) -> None:
        self.model = model
        self.fields = dict(fields)
        self.max_rows = max_rows
        self.row_type = row_type(fields)
        self._list_type = list[self.row_type]  # type: ignore[name-defined]

    def decoder(self, envelope: Callable[[Any], type[msgspec.Struct]]) -> Callable[[Any], Any]:
        """A decoder of a JSON body around the rows' list type."""
        return msgspec.json.Decoder(envelope(self._list_type)).decode

    def convert_rows(self, values: Any) -> Rows:
        """Rows of objects that were decoded already."""
        try:
            return self.check_row_count(msgspec.convert(values, self._list_type))
        except (msgspec.ValidationError, RecursionError) as error:
            raise self.validation_error(values) from error

    def check_row_count(self, rows: Rows) -> Rows:
        """The rows, if they are not too many and not none."""
        if len(rows) > self.max_rows:
            raise TooManyRows(
                f"The request asks for {len(rows)} rows; the server takes {self.max_rows}.",
                "Ask in parts, or raise TIDEMILL_SERVE__MAX_ROWS.",
            )
        if not rows:
            raise RequestInvalid("The request asks for no row.", "Send at least one.")
        return rows

    def non_text_error(self, rows: Rows) -> Exception:
        """What is wrong with rows of which a category holds no text."""
        return self.validation_error(
            [dict(zip(self.fields, msgspec.structs.astuple(row), strict=True)) for row in rows]
        )

    def validation_error(self, values: Any) -> Exception:
        """What is wrong with rows that could not be decoded."""
        if not isinstance(values, list):
            return RequestInvalid("The rows are no list.", "Send a list of JSON objects.")
        if len(values) > self.max_rows or not values:
            return _error_raised_by(self.check_row_count, values)
        errors: list[FieldError] = []
        for number, row in enumerate(values):
            errors += self._row_errors(number, row)
            if len(errors) >= MAX_REPORTED_ERRORS:
                break
        return RowsInvalid(errors[:MAX_REPORTED_ERRORS] or [FieldError(0, None, "cannot be used")])

    def _row_errors(self, number: int, row: Any) -> list[FieldError]:
        if not isinstance(row, dict):
            return [FieldError(number, None, "not a JSON object")]
        errors = []
        for name, field in self.fields.items():
            if name in row:
                problem = type_error(row[name], field)
            else:
                problem = None if field.optional else "missing"
            if problem is not None:
                errors.append(FieldError(number, name, problem))
        unknown = (name for name in row if name not in self.fields)
        return errors + [FieldError(number, name, "unknown field") for name in unknown]


def decode_json(body: bytes) -> Any:
    """Any JSON. Raises `RequestInvalid`."""
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RequestInvalid(f"The body is not JSON: {error}.", "Send a JSON object.") from error


def _error_raised_by(call: Callable[[Any], Any], value: Any) -> Exception:
    try:
        call(value)
    except Exception as error:
        return error
    raise AssertionError("nothing is wrong")
