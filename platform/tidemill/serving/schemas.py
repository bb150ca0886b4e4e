"""The rows that a model accepts, with exactly the fields of its `defs.yaml`, and their errors."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from tidemill.core.errors import RequestInvalid, RowInvalid
from tidemill.core.message_schema import row_type, type_error
from tidemill.core.spec_sections import FieldSpec

MAX_REPORTED_ERRORS = 20
"""The maximum number of errors that a response lists."""

Rows = Sequence[msgspec.Struct]
_REMEDY = "Send the fields of the model's defs.yaml; use null for an unknown value."


@dataclass(frozen=True)
class FieldError:
    """What is wrong with a field, or with the whole row if it is None; rows count from 0."""

    row: int
    field: str | None
    problem: str


class RowsInvalid(RowInvalid):
    """Rows do not match the model's fields; `errors` holds the first errors, one per field."""

    def __init__(self, errors: Sequence[FieldError], remedy: str = _REMEDY) -> None:
        first = errors[0]
        location = f"row {first.row}" + (f", field {first.field!r}" if first.field else "")
        suffix = f", and {len(errors) - 1} more" if len(errors) > 1 else ""
        message = f"The rows do not match the model's fields: {location}: {first.problem}{suffix}."
        super().__init__(message, remedy)
        self.errors = tuple(errors)


class TooManyRows(RequestInvalid):
    """A request has more rows than the server accepts."""


class RequestSchema:
    """The rows that a model accepts; fixed while the server runs.

    A field that is not optional must be present in each row, and may be null. Methods raise
    `TooManyRows` beyond `max_rows`, `RequestInvalid` without a row, `RowsInvalid`.
    """

    def __init__(self, model: str, fields: Mapping[str, FieldSpec], max_rows: int) -> None:
        self.model = model
        self.fields = dict(fields)
        self.max_rows = max_rows
        self.row_type = row_type(fields)
        self._list_type = list[self.row_type]  # type: ignore[name-defined]

    def decoder(self, envelope: Callable[[Any], type[msgspec.Struct]]) -> Callable[[Any], Any]:
        """A decoder of a JSON body, whose type `envelope` makes from the type of the rows."""
        return msgspec.json.Decoder(envelope(self._list_type)).decode

    def convert_rows(self, values: Any) -> Rows:
        """Rows from objects that are decoded already."""
        try:
            return self.check_row_count(msgspec.convert(values, self._list_type))
        except (msgspec.ValidationError, RecursionError) as error:
            raise self.validation_error(values) from error

    def check_row_count(self, rows: Rows) -> Rows:
        """The rows, if there is at least one and not too many."""
        if len(rows) > self.max_rows:
            raise TooManyRows(
                f"The request has {len(rows)} rows; the server accepts at most {self.max_rows}.",
                "Split the request, or raise TIDEMILL_SERVE__MAX_ROWS.",
            )
        if not rows:
            raise RequestInvalid("The request has no rows.", "Send at least one.")
        return rows

    def non_text_error(self, rows: Rows) -> Exception:
        """The error for rows in which a category holds a value that is not text."""
        return self.validation_error(
            [dict(zip(self.fields, msgspec.structs.astuple(row), strict=True)) for row in rows]
        )

    def validation_error(self, values: Any) -> Exception:
        """The error for rows that could not be decoded."""
        if not isinstance(values, list):
            return RequestInvalid("The rows are not a list.", "Send a list of JSON objects.")
        if len(values) > self.max_rows or not values:
            return _error_raised_by(self.check_row_count, values)
        errors: list[FieldError] = []
        for number, row in enumerate(values):
            errors += self._row_errors(number, row)
            if len(errors) >= MAX_REPORTED_ERRORS:
                break
        return RowsInvalid(errors[:MAX_REPORTED_ERRORS] or [FieldError(0, None, "not valid")])

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
    """Any JSON value. Raises `RequestInvalid`."""
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RequestInvalid(f"The body is not JSON: {error}.", "Send a JSON object.") from error


def _error_raised_by(call: Callable[[Any], Any], value: Any) -> Exception:
    try:
        call(value)
    except Exception as error:
        return error
    raise AssertionError("no error was raised")
