"""From messages to rows: each message is decoded by itself, so it cannot change its neighbours."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl
from msgspec import UNSET

from tidemill.core.errors import RowInvalid
from tidemill.core.events import MALFORMED, Message, check_texts, decoder, label_type, reason
from tidemill.core.labels import as_text, labelled
from tidemill.core.sections import FieldType
from tidemill.core.spec import ModelSpec

IDENTITY = {"_partition": pl.Int32, "_offset": pl.Int64, "_timestamp": pl.Int64}
"""The columns before the fields: where a row stands in the log, and its event time in ms."""

_COLUMNS = {"category": pl.String(), "number": pl.Float64(), "boolean": pl.Boolean()}


@dataclass(frozen=True)
class Rejected:
    """A record that cannot be used, as it stood in the log, and why.

    Reasons are short and stable; one that is about a field begins with its name in backticks.
    """

    partition: int
    offset: int
    timestamp: int | None
    reason: str
    value: bytes | None


@dataclass(frozen=True)
class Decoded:
    """The rows of a chunk, in its order, and what was rejected.

    `rows` has the columns of `Decoder.schema`; `absent` counts, for each declared field, the rows
    whose message does not name it (a null is not absent).
    """

    rows: pl.DataFrame
    rejected: tuple[Rejected, ...]
    absent: dict[str, int]


class RowDecoder:
    """Decodes rows without a label, as they are sent for prediction."""

    def __init__(self, fields: Mapping[str, FieldType]) -> None:
        self._types = dict(fields)
        self._decode = decoder(self._types, {})

    def rows(self, values: Sequence[Message]) -> pl.DataFrame:
        """One row a JSON object, in order; the declared fields as columns.

        Fields that are absent are null, others are ignored. Raises `RowInvalid` for the first
        value that does not fit.
        """
        events = []
        for number, value in enumerate(values):
            try:
                event = self._decode(value)
                check_texts(event, self._types)
            except MALFORMED as error:
                raise RowInvalid(
                    f"Row {number} of {len(values)} cannot be used: {reason(error, value)}.",
                    f"Send a JSON object with the fields {', '.join(self._types)}.",
                ) from error
            events.append(event)
        return frame(events, self._types)


def frame(events: Sequence[Any], types: Mapping[str, FieldType]) -> pl.DataFrame:
    """One row an event (a struct with the fields f0, f1, …), in order; the fields as columns."""
    return pl.DataFrame(_columns(events, types)[0])


class Decoder:
    """Decodes the labelled messages of one stream."""

    def __init__(self, spec: ModelSpec) -> None:
        self._spec = spec
        self._types = {name: field.type for name, field in spec.fields.items()}
        self._label_index = f"f{len(self._types)}"
        self._decode = decoder(self._types, {spec.label: label_type(spec)})
        self.schema = pl.Schema(
            IDENTITY
            | {name: _COLUMNS[kind] for name, kind in self._types.items()}
            | {spec.label: pl.Float64}
        )
        """Identity, the fields (category String, number Float64, boolean), the label Float64."""

    def empty(self) -> pl.DataFrame:
        """No rows, with the schema that all rows have."""
        return self.schema.to_frame()

    def decode(
        self,
        partition: int,
        offsets: Sequence[int],
        timestamps: Sequence[int | None],
        values: Sequence[bytes | None],
    ) -> Decoded:
        """The rows of one chunk; the four arguments describe it as `core.log.Chunk` does.

        A record without a timestamp, without a value or with a label outside its range is
        rejected. Whether a record is kept depends on that record alone.
        """
        try:
            if None in timestamps:
                return self._one_by_one(partition, offsets, timestamps, values)
            events = list(map(self._decode, values))
            return self._build(partition, offsets, timestamps, values, events, ())
        except MALFORMED:
            return self._one_by_one(partition, offsets, timestamps, values)

    def _one_by_one(
        self,
        partition: int,
        offsets: Sequence[int],
        timestamps: Sequence[int | None],
        values: Sequence[bytes | None],
    ) -> Decoded:
        kept: list[int] = []
        events: list[Any] = []
        rejected: list[Rejected] = []
        for at, value in enumerate(values):
            try:
                event = self._decode(value)
                check_texts(event, self._types)
                why = None if timestamps[at] is not None else "no timestamp"
            except MALFORMED as error:
                why = reason(error, value)
            if why is None:
                kept.append(at)
                events.append(event)
            else:
                record = Rejected(partition, offsets[at], timestamps[at], why, value)
                rejected.append(record)
        return self._build(
            partition,
            [offsets[at] for at in kept],
            [timestamps[at] for at in kept],
            [values[at] for at in kept],
            events,
            rejected,
        )

    def _build(
        self,
        partition: int,
        offsets: Sequence[int],
        timestamps: Sequence[int | None],
        values: Sequence[bytes | None],
        events: list[Any],
        rejected: Sequence[Rejected],
    ) -> Decoded:
        """The frame of decoded events, without those whose label is outside its range."""
        told = [getattr(event, self._label_index) for event in events]
        label, faults = labelled(self._spec, told)
        outside = [
            Rejected(partition, offsets[at], timestamps[at], reason, values[at])
            for at, reason in faults.items()
        ]
        if outside:
            keep = [at for at in range(len(events)) if at not in faults]
            events = [events[at] for at in keep]
            offsets, timestamps = [offsets[at] for at in keep], [timestamps[at] for at in keep]
        columns, absent = _columns(events, self._types)
        rows = pl.DataFrame(
            [
                pl.repeat(partition, len(events), dtype=pl.Int32, eager=True).alias("_partition"),
                pl.Series("_offset", offsets, dtype=pl.Int64),
                pl.Series("_timestamp", timestamps, dtype=pl.Int64),
                *columns,
                label,
            ]
        )
        everything = sorted([*rejected, *outside], key=lambda each: each.offset)
        return Decoded(rows, tuple(everything), absent)


def _columns(
    events: Sequence[Any], types: Mapping[str, FieldType]
) -> tuple[list[pl.Series], dict[str, int]]:
    """One series a field, and how many events lack each."""
    columns, absent = [], {}
    for index, (name, kind) in enumerate(types.items()):
        attribute = f"f{index}"
        told = [getattr(event, attribute) for event in events]
        if kind == "number":
            column = pl.Series(name, told, dtype=pl.Float64)
            absent[name] = int(column.is_nan().sum())
            column = column.fill_nan(None) if absent[name] else column
        else:
            column, absent[name] = _plain_column(name, told, _COLUMNS[kind])
        columns.append(column)
    return columns, absent


def _plain_column(name: str, told: list[Any], dtype: pl.DataType) -> tuple[pl.Series, int]:
    """Strict building tells the usual case, where every value has the column's own type."""
    try:
        return pl.Series(name, told, dtype=dtype, strict=True), 0
    except (TypeError, ValueError) as error:
        if isinstance(error, UnicodeError):
            raise
    absent = sum(value is UNSET for value in told)
    values = [None if value is UNSET else value for value in told]
    if dtype == pl.String:
        values = [value if value is None else as_text(value) for value in values]
    return pl.Series(name, values, dtype=dtype, strict=True), absent
