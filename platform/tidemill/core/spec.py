"""The schema of a model's `defs.yaml`: all keys, with defaults and bounds."""

import re
from collections.abc import Mapping
from datetime import date, datetime
from functools import cached_property
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo

from pydantic import BeforeValidator, Field, field_validator, model_validator

from tidemill.core.spec_sections import (
    FieldSpec,
    FreshnessSpec,
    GateSpec,
    InitialSpec,
    LearnerSpec,
    Section,
    WindowsSpec,
)
from tidemill.core.windows import Calendar, to_ms

Objective = Literal[
    "binary",
    "multiclass",
    "regression",
    "regression_l1",
    "huber",
    "quantile",
    "poisson",
    "gamma",
    "tweedie",
]
MODEL_NAME = re.compile(r"[a-z][a-z0-9_]{0,62}")
"""A valid model name: it is a folder, the prefix of asset keys and part of file names."""


def _aware_datetime(value: date | datetime, timezone: str) -> datetime:
    """The midnight of a date, or a time; in `timezone` unless the value has its own."""
    if not isinstance(value, datetime):
        value = datetime(value.year, value.month, value.day)  # noqa: DTZ001 - the zone is added below
    return value if value.tzinfo else value.replace(tzinfo=ZoneInfo(timezone))


def _field_shorthand(value: object) -> object:
    if isinstance(value, str):
        return {"type": value.removesuffix("?"), "optional": value.endswith("?")}
    return value


class ModelSpec(Section):
    """One incremental model: the stream it learns from, how it learns, and when it takes over."""

    _name: str  # not a field: it is no key of defs.yaml, and no part of a dump or a digest
    topic: str = Field(
        pattern=r"^[a-zA-Z0-9._-]{1,249}$", description="The Kafka topic of labelled events."
    )
    format: Literal["json"] = Field("json", description="One JSON object per record.")
    fields: dict[
        str,
        Annotated[
            FieldSpec, BeforeValidator(_field_shorthand, json_schema_input_type=FieldSpec | str)
        ],
    ] = Field(
        min_length=1,
        description="The event's fields: `category`, `number` or `boolean`; "
        "a field with `?`, such as `number?`, may be missing from whole windows.",
    )
    label: str = Field(description="The field of the event that the model predicts.")
    classes: list[str] = Field([], description="The label's values, for `multiclass`.")
    objective: Objective = "binary"
    features: str | None = Field(
        None,
        pattern=r"^[\w.]+:\w+$",
        description="`module:function`: a row-wise function from a polars frame to a polars frame.",
    )
    windows: WindowsSpec
    initial: InitialSpec = InitialSpec()
    learner: LearnerSpec = LearnerSpec()
    gate: GateSpec = GateSpec()
    freshness: FreshnessSpec = FreshnessSpec()
    deploy: Literal["last", "each"] = Field(
        "last", description="Whether only the last window of a run may be deployed, or each window."
    )
    max_reject_share: float = Field(
        0.05,
        ge=0,
        le=1,
        description="A window with a larger share of rejected records is not learned.",
    )
    warn_below_rows: int = Field(
        100, ge=0, description="A check warns about windows with fewer rows."
    )
    retention_windows: int = Field(
        400, ge=1, description="Number of windows whose batches and candidates are kept."
    )

    @field_validator("fields")
    @classmethod
    def _field_names(cls, value: dict[str, FieldSpec]) -> dict[str, FieldSpec]:
        for name in value:
            if not name or name.startswith("_"):
                raise ValueError(
                    f"field name {name!r}: names that start with _ are reserved for tidemill"
                )
        return dict(sorted(value.items()))  # the order in defs.yaml must not affect any digest

    @model_validator(mode="after")
    def _validate_consistency(self) -> "ModelSpec":
        if self.label in self.fields:
            raise ValueError(
                f"`label` {self.label!r} is also one of the `fields`; remove it from these"
            )
        if self.label.startswith("_"):
            raise ValueError(
                "`label` starts with _, which is reserved for tidemill's internal columns"
            )
        if (self.objective == "multiclass") != bool(self.classes):
            raise ValueError(
                "`classes` are required for `objective: multiclass`, and not allowed for any other"
            )
        if self.classes and (len(self.classes) < 2 or len(set(self.classes)) < len(self.classes)):
            raise ValueError("`classes` must be at least two different values")
        for name in self.gate.slices:
            if name not in self.fields or self.fields[name].type != "category":
                raise ValueError(f"`gate.slices`: {name!r} is not a category field")
        _ = self.calendar.first  # raises for a cron that never ticks, or for a timezone not allowed
        return self

    @classmethod
    def create(cls, name: str, attributes: object) -> "ModelSpec":
        """The model of this name with these attributes of its `defs.yaml`.

        Raises pydantic's `ValidationError`, and `SpecInvalid` for a calendar without windows.
        """
        spec = cls.model_validate(attributes)
        spec._name = name
        return spec

    @property
    def name(self) -> str:
        """The name of the model, which is that of its folder."""
        return self._name

    @cached_property
    def calendar(self) -> Calendar:
        """The model's windows."""
        windows = self.windows
        return Calendar(
            windows.cron, _aware_datetime(windows.start, windows.timezone), windows.timezone
        )

    @property
    def history_start_ms(self) -> int | None:
        """`initial.from` in milliseconds since 1970; None for the whole history."""
        start = self.initial.start
        return None if start is None else to_ms(_aware_datetime(start, self.windows.timezone))

    @property
    def categories(self) -> tuple[str, ...]:
        """The category fields, by name."""
        return tuple(name for name, field in self.fields.items() if field.type == "category")

    def learning_spec(self, features_source: str | None) -> dict[str, Any]:
        """Everything besides data that candidates of a lineage depend on.

        `features_source` is the sha256 of the feature function's source, None without one.
        """
        dumped = self.model_dump(mode="json", by_alias=True)
        parts = {k: dumped[k] for k in ("label", "classes", "objective", "features")}
        # Without `optional`: it decides whether a batch is refused, and changes nothing else.
        fields = {name: field.type for name, field in self.fields.items()}
        return parts | {
            "fields": fields,
            "features_source": features_source,
            "learner": dumped["learner"],
        }

    def with_learning_spec(self, learning_spec: Mapping[str, Any]) -> "ModelSpec":
        """This spec with the learning spec of another one, to recompute what that one produced.

        All fields are optional in it: the batches of that spec are committed and not refused.
        """
        fields = learning_spec["fields"].items()
        changed = {key: learning_spec[key] for key in ("label", "classes", "objective", "features")}
        changed["fields"] = {name: FieldSpec(type=kind, optional=True) for name, kind in fields}
        changed["learner"] = LearnerSpec.model_validate(learning_spec["learner"])
        return self.model_copy(update=changed)
