"""Each message is kept or rejected on its own."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidemill.core.decoding import Decoder, RowDecoder, align_to_schema
from tidemill.core.errors import RowInvalid
from tidemill.core.spec import ModelSpec


def spec(**overrides: Any) -> ModelSpec:
    return ModelSpec.create(
        "m",
        {
            "topic": "t",
            "fields": {"carrier": "category", "distance": "number", "wet": "boolean"},
            "label": "late",
            "windows": {"start": "2013-02-01"},
        }
        | overrides,
    )


GOOD = b'{"carrier":"UA","distance":12.5,"wet":true,"late":1,"id":"x"}'

STRANGE: list[tuple[bytes | None, str | None]] = [
    (None, "tombstone"),
    (b"", "empty value"),
    (b"{", "not JSON"),
    (b"[]", "not a JSON object"),
    (b"null", "not a JSON object"),
    (b"7", "not a JSON object"),
    (GOOD + GOOD, "not JSON"),
    (GOOD + b"\n" + GOOD, "not JSON"),
    (GOOD + b"\n", None),
    (b'{"late":1,"distance":NaN}', "not JSON"),
    (b'{"late":1,"distance":Infinity}', "not JSON"),
    (b'{"late":1,"distance":1e308}', None),
    (b'{"late":1,"distance":1e999}', "`distance`: out of range"),
    (b'{"late":1,"distance":' + b"1" * 400 + b"}", "`distance`: out of range"),
    (b'{"late":1,"distance":"far"}', "`distance`: expected number, got text"),
    (b'{"late":1,"distance":[1]}', "`distance`: expected number, got array"),
    (b'{"late":1,"distance":true}', "`distance`: expected number, got boolean"),
    (b'{"late":1,"carrier":1.5}', "`carrier`: expected text, got number"),
    (b'{"late":1,"carrier":7}', None),
    (b'{"late":1,"carrier":' + b"9" * 30 + b"}", None),
    (b'{"late":1,"carrier":' + b"9" * 5000 + b"}", "`carrier`: out of range"),
    (b'{"late":1,"carrier":"a\\u0000b"}', None),
    (b'{"late":1,"carrier":"a\\nb"}', None),
    (b'{"late":1,"carrier":"a\nb"}', "not JSON"),
    (b'{"late":1,"carrier":"\xff"}', "not UTF-8"),
    (b'{"late":1,"carrier":"\xed\xa0\x80"}', "not UTF-8"),
    (b'{"late":1,"carrier":"\\ud83d\\ude00"}', None),
    (b'{"late":1,"wet":1}', "`wet`: expected boolean, got whole number"),
    (b'{"late":1,"other":' + b"[" * 10_000 + b"]" * 10_000 + b"}", "nested too deeply"),
    (b'{"late":1,"other":"' + b"x" * 3_000_000 + b'"}', None),
    (b'{"late":0,"late":1}', None),
    (b'{"distance":1}', "`late`: missing"),
    (b'{"late":null}', "`late`: expected number or boolean, got null"),
    (b'{"late":"yes"}', "`late`: expected number or boolean, got text"),
    (b'{"late":2}', "`late`: outside its classes"),
    (b'{"late":0.5}', "`late`: outside its classes"),
    (b'{"late":true}', None),
]


@pytest.mark.parametrize(("value", "reason"), STRANGE, ids=lambda v: repr(v)[:40])
def test_a_strange_message_is_kept_or_rejected_with_its_reason(
    value: bytes | None, reason: str | None
) -> None:
    decoded = Decoder(spec()).decode(3, [10, 12, 17], [5, 6, 7], [GOOD, value, GOOD])
    kept = [10, 17] if reason else [10, 12, 17]
    assert decoded.rows["_offset"].to_list() == kept
    assert decoded.rows.filter(decoded.rows["_offset"] != 12)["distance"].to_list() == [12.5] * 2
    assert [(r.partition, r.offset, r.timestamp, r.reason) for r in decoded.rejected] == (
        [(3, 12, 6, reason)] if reason else []
    )
    assert [r.value for r in decoded.rejected] == ([value] if reason else [])


HALF_PAIRS = ["\\ud800", "\\udc00", "\\ud83d\\ud83d", "\\ud83dx", "\\ude00\\ud83d"]


@pytest.mark.parametrize("half", HALF_PAIRS)
def test_half_a_surrogate_pair_never_reaches_a_column(half: str) -> None:
    value = f'{{"late":1,"carrier":"{half}"}}'.encode()
    decoded = Decoder(spec()).decode(0, [1, 2], [5, 5], [GOOD, value])
    assert decoded.rows.height == 1
    assert [r.offset for r in decoded.rejected] == [2]
    with pytest.raises(RowInvalid):
        RowDecoder({"carrier": "category"}).rows([value])


@given(st.lists(st.tuples(st.sampled_from(STRANGE), st.sampled_from([None, 9])), max_size=8))
def test_a_messages_fate_does_not_depend_on_its_neighbours(
    records: list[tuple[tuple[bytes | None, str | None], int | None]],
) -> None:
    decoder = Decoder(spec())
    values, times = [value for (value, _), _ in records], [time for _, time in records]
    batch = decoder.decode(0, range(len(values)), times, values)
    separate = [decoder.decode(0, [i], [times[i]], [values[i]]) for i in range(len(values))]
    assert batch.rows.rows() == [row for one in separate for row in one.rows.rows()]
    assert list(batch.rejected) == [r for one in separate for r in one.rejected]
    for name in ("carrier", "distance", "wet"):
        assert batch.absent[name] == sum(one.absent[name] for one in separate)
    assert batch.rows.schema == decoder.schema


def test_only_absent_fields_are_counted_but_null_is_null_in_the_rows_too() -> None:
    values: list[bytes | None] = [
        b'{"late":1,"carrier":null,"distance":null,"wet":null}',
        b'{"late":1}',
        GOOD,
    ]
    decoded = Decoder(spec()).decode(0, [0, 1, 2], [1, 1, 1], values)
    assert decoded.absent == {"carrier": 1, "distance": 1, "wet": 1}
    assert decoded.rows["distance"].to_list() == [None, None, 12.5]
    assert decoded.rows["carrier"].to_list() == [None, None, "UA"]
    assert decoded.rows["wet"].to_list() == [None, None, True]


def test_whole_numbers_and_booleans_in_a_category_become_their_text() -> None:
    values: list[bytes | None] = [
        json.dumps({"late": 0, "carrier": v}).encode() for v in (7, True, "7")
    ]
    rows = Decoder(spec()).decode(0, [0, 1, 2], [1, 1, 1], values).rows
    assert rows["carrier"].to_list() == ["7", "true", "7"]


def test_a_record_without_a_timestamp_is_rejected() -> None:
    decoded = Decoder(spec()).decode(0, [0, 1], [None, 4], [GOOD, GOOD])
    assert [(r.offset, r.timestamp, r.reason) for r in decoded.rejected] == [
        (0, None, "no timestamp")
    ]
    assert decoded.rows["_timestamp"].to_list() == [4]


@pytest.mark.parametrize(
    ("objective", "labels", "kept", "reason"),
    [
        ("multiclass", ["b", "a", 7, "c"], [1.0, 0.0, 2.0], "`late`: outside its classes"),
        ("regression", [1.5, -2, 1e39], [1.5, -2.0], "`late`: out of range"),
        ("poisson", [0, 3, -1], [0.0, 3.0], "`late`: below 0"),
        ("gamma", [1e-3, 0], [1e-3], "`late`: not above 0"),
    ],
)
def test_labels_are_numbers_that_the_objective_has_a_loss_for(
    objective: str, labels: list[Any], kept: list[float], reason: str
) -> None:
    classes = ["a", "b", "7"] if objective == "multiclass" else []
    decoder = Decoder(spec(objective=objective, classes=classes))
    values: list[bytes | None] = [json.dumps({"late": label}).encode() for label in labels]
    decoded = decoder.decode(0, range(len(values)), [1] * len(values), values)
    assert decoded.rows["late"].to_list() == kept
    assert [r.reason for r in decoded.rejected] == [reason]


def test_no_messages_give_no_rows_with_the_schema_of_rows() -> None:
    decoder = Decoder(spec())
    assert decoder.decode(0, [], [], []).rows.equals(decoder.empty())


def test_a_field_may_have_any_name() -> None:
    name = "a`b $.x - at"
    decoder = Decoder(spec(fields={name: "number"}))
    values: list[bytes | None] = [
        json.dumps({name: value, "late": 1}).encode() for value in (2, "x")
    ]
    decoded = decoder.decode(0, [0, 1], [1, 1], values)
    assert decoded.rows[name].to_list() == [2.0]
    assert decoded.rejected[0].reason == f"`{name}`: expected number, got text"


def test_rows_for_prediction_need_no_label_and_errors_are_named() -> None:
    decoder = RowDecoder({"carrier": "category", "distance": "number"})
    rows = decoder.rows([b'{"distance":3}', b'{"carrier":"UA","more":1}'])
    assert rows.rows() == [(None, 3.0), ("UA", None)]
    with pytest.raises(RowInvalid, match="Row 1 of 2 is not valid: `distance`: expected number"):
        decoder.rows([b"{}", b'{"distance":"far"}'])


def test_rows_decoded_by_another_spec_are_filled_with_nulls() -> None:
    """Fields that are missing or have another type are null; other fields are dropped."""
    rows = Decoder(spec()).decode(0, [7], [1], [GOOD]).rows
    aligned = align_to_schema(rows, {"wet": "category", "distance": "number", "gate": "boolean"})
    assert aligned.columns == ["_partition", "_offset", "_timestamp", "wet", "distance", "gate"]
    assert aligned.row(0) == (0, 7, 1, None, 12.5, None)
    assert align_to_schema(rows, {"late": "number"}).schema == rows.select("^_.*$", "late").schema
    assert align_to_schema(rows.clear(), {"gate": "category"}).height == 0
