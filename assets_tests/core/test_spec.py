"""A mistake in `defs.yaml` is named with its line and the nearest valid word."""

import pytest

from tidemill.core.errors import SpecInvalid
from tidemill.core.spec import ModelSpec
from tidemill.core.spec_parser import parse
from tidemill.model_files import COMPONENT_TYPE

GOOD = """\
type: tidemill.defs.IncrementalModel
attributes:
  topic: clicks
  label: bought
  fields:
    price: number
    country: category
    coupon: boolean?
  windows:
    cron: "0 0 * * *"
    start: 2026-01-01
    timezone: Europe/Berlin
  learner:
    replay:
      half_life: 12h
  gate:
    slices: [country]
"""


def parse_text(text: str, file: str = "clicks/defs.yaml") -> ModelSpec:
    return parse(text, file, "clicks", COMPONENT_TYPE)


def error_message(valid_text: str, invalid_text: str) -> str:
    assert valid_text in GOOD
    with pytest.raises(SpecInvalid) as raised:
        parse_text(GOOD.replace(valid_text, invalid_text), "clicks/defs.yaml")
    return raised.value.message


def test_a_missing_key_has_a_default_that_works() -> None:
    spec = parse_text(GOOD)
    assert spec.objective == "binary"
    assert spec.learner.retrain_every == 7
    assert spec.learner.replay.half_life == 12 * 3_600_000
    assert (spec.fields["coupon"].type, spec.fields["coupon"].optional) == ("boolean", True)
    assert spec.calendar.first.key == "2026-01-01"


@pytest.mark.parametrize(
    ("valid_text", "invalid_text", "message"),
    [
        ("label:", "lable:", "clicks/defs.yaml:4: unknown key `lable`; did you mean `label`?"),
        ("    slices", "    slice", "clicks/defs.yaml:17: unknown key `gate.slice`"),
        ("half_life: 12h", "halflife: 12h", ":15: unknown key `learner.replay.halflife`"),
        ("price: number", "price: numbr", ":6: `fields.price.type` is 'numbr': expected"),
        ("half_life: 12h", "half_life: soon", ":15: `learner.replay.half_life` is 'soon': a dur"),
        ("Europe/Berlin", "Europe/Berln", ":12: `windows.timezone` is 'Europe/Berln'"),
        ('"0 0 * * *"', '"0 0 * *"', ":10: `windows.cron` is '0 0 * *': a cron expression has"),
        ('"0 0 * * *"', '"99 0 * * *"', "is not a valid cron expression"),
        ('"0 0 * * *"', '"*/5 * * * *"', "shorter than a day cannot be in the timezone"),
        ("start: 2026-01-01", "start: soon", ":11: `windows.start"),
        ("  topic: clicks\n", "", ":2: `topic` is missing"),
        ("topic: clicks", "topic: no such/name", ":3: `topic` is 'no such/name'"),
        ("label: bought", "label: bought\n  name: x", ":5: unknown key `name`; did"),
        ("label: bought", "label: price", "`label` 'price' is also one of the `fields`"),
        ("slices: [country]", "slices: [price]", "'price' is not a category field"),
        ("tidemill.defs.Incr", "tidemill.Incr", ":1: `type` must be `tidemill.defs.Incr"),
        ("price: number", "_price: number", "names that start with _ are reserved for tidemill"),
        ("price: number", "price: [", "not valid YAML"),
    ],
)  # fmt: skip
def test_a_mistake_is_named_with_its_place(
    valid_text: str, invalid_text: str, message: str
) -> None:
    assert message in error_message(valid_text, invalid_text)


def test_every_mistake_is_named_at_once() -> None:
    lines = error_message("label: bought", "lable: bought\n  objective: binery").splitlines()
    assert [line.split(" ")[0] for line in lines] == [
        "clicks/defs.yaml:2:",
        "clicks/defs.yaml:5:",
        "clicks/defs.yaml:4:",
    ]
    assert "did you mean `binary`?" in lines[1]


@pytest.mark.parametrize("text", ["", "- a", "5", "attributes: 3"])
def test_a_file_of_another_shape_is_refused(text: str) -> None:
    with pytest.raises(SpecInvalid, match="clicks:1: "):
        parse_text(text, "clicks")


def test_the_order_of_fields_and_what_may_be_missing_are_no_part_of_what_is_learned() -> None:
    spec = parse_text(GOOD)
    swapped = parse_text(
        GOOD.replace(
            "    price: number\n    country: category\n",
            "    country: category\n    price: number?\n",
        ),
    )
    assert swapped.learning_spec(None) == spec.learning_spec(None)
    assert list(swapped.fields) == list(spec.fields)


@pytest.mark.parametrize(
    "changes",
    [
        {"objective": "multiclass"},
        {"classes": ["a", "b"]},
        {"objective": "multiclass", "classes": ["a", "a"]},
        {"initial": {"file": "x.csv"}},
        {"initial": {"file": "x.csv", "time_column": "t", "from": "2025-01-01"}},
        {"learner": {"parameters": {"num_threads": 4}}},
        {"gate": {"cluster_length": "0s"}},
    ],
)  # fmt: skip
def test_what_does_not_fit_together_is_refused(changes: dict[str, object]) -> None:
    valid = {
        "topic": "t",
        "label": "y",
        "fields": {"x": "number"},
        "windows": {"start": "2026-01-01"},
    }
    ModelSpec.create("m", valid)
    with pytest.raises(ValueError, match=r"Value error|greater than 0"):
        ModelSpec.create("m", valid | changes)


def test_a_spec_with_another_learning_spec_learns_as_that_one_and_keeps_the_rest() -> None:
    other = parse_text(GOOD.replace("half_life: 12h", "half_life: 1h"))
    spec = parse_text(GOOD.replace("    price: number\n", "") + "    min_rows: 9\n")
    merged = spec.with_learning_spec(other.learning_spec(None))
    assert merged.learning_spec(None) == other.learning_spec(None)
    assert list(merged.fields) == list(other.fields)
    assert all(field.optional for field in merged.fields.values())
    assert (merged.gate, merged.calendar, merged.topic) == (spec.gate, spec.calendar, spec.topic)


def test_a_spec_knows_its_name_which_is_no_part_of_what_it_contains() -> None:
    spec = parse_text(GOOD)
    assert spec.name == spec.with_learning_spec(spec.learning_spec(None)).name == "clicks"
    renamed = parse(GOOD, "x", "visits", COMPONENT_TYPE)
    assert renamed != spec
    assert renamed.model_dump() == spec.model_dump()
    assert renamed.learning_spec(None) == spec.learning_spec(None)
