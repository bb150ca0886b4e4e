"""The sections of a `defs.yaml`: windows, fields, learner, gate, initial data."""

import re
from collections.abc import Mapping
from datetime import date, datetime
from functools import cached_property
from typing import Annotated, Literal
from zoneinfo import available_timezones

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

FieldType = Literal["category", "number", "boolean"]
Scalar = bool | int | float | str

_UNIT_MS = {"s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
RESERVED_PARAMETERS = {
    "objective",
    "num_class",
    "num_threads",
    "seed",
    "deterministic",
    "force_row_wise",
    "learning_rate",
    "num_leaves",
    "min_data_in_leaf",
    "verbosity",
    "num_iterations",
}
"""LightGBM's parameters that tidemill sets itself."""


def _milliseconds(value: object) -> object:
    if isinstance(value, str):
        match = re.fullmatch(r"(\d+)(ms|[smhd])", value.strip())
        if match is None:
            raise ValueError("a duration is a whole number and a unit, such as 90s, 5m, 12h or 60d")
        return int(match[1]) * _UNIT_MS.get(match[2], 1)
    return value


Duration = Annotated[
    int,
    BeforeValidator(_milliseconds, json_schema_input_type=str),
    Field(ge=0, description="A whole number and a unit: `90s`, `5m`, `12h`, `60d`."),
]


class Section(BaseModel):
    """A section of `defs.yaml`: frozen; an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, ignored_types=(cached_property,))


class WindowsSpec(Section):
    """How the topic is divided into windows."""

    cron: str = Field(
        "0 0 * * *", description="Five cron fields; each window lasts from one tick to the next."
    )
    start: date | datetime = Field(description="Earliest start of the first window, in `timezone`.")
    timezone: str = Field("UTC", description="IANA name; `UTC` for windows shorter than a day.")
    confirmation_records: int = Field(
        20, ge=2, le=10_000, description="Data records that confirm a boundary."
    )
    idle_timeout: Duration = Field(
        600_000,
        description="A Kafka partition without new records for this long no longer holds a window "
        "open, if another partition has a confirmed boundary.",
    )
    close_after_silence: Duration | None = Field(
        None, description="Close windows after no partition has had new records for this long."
    )

    @field_validator("timezone")
    @classmethod
    def _valid_timezone(cls, value: str) -> str:
        if value not in available_timezones():
            raise ValueError(
                f"{value!r} is not a valid IANA timezone, such as Europe/Berlin or UTC"
            )
        return value

    @field_validator("cron")
    @classmethod
    def _five_fields(cls, value: str) -> str:
        if len(value.split()) != 5:
            raise ValueError('a cron expression has five fields, such as "0 0 * * *"')
        return value


class BoostingSpec(Section):
    """One kind of boosting step."""

    num_iterations: int = Field(ge=1, le=10_000, description="Boosting rounds.")
    learning_rate: float = Field(gt=0, le=1, description="Learning rate.")
    num_leaves: int = Field(15, ge=2, le=1024, description="Maximum number of leaves per tree.")
    min_data_in_leaf: int = Field(ge=1, description="Minimum number of rows per leaf.")


class ReplaySpec(Section):
    """The bounded, recency-biased sample from which a model is retrained."""

    rows: int = Field(70_000, ge=100, le=10_000_000, description="Maximum number of rows.")
    half_life: Duration = Field(
        60 * 86_400_000, gt=0, description="A row older by this much is half as likely to be kept."
    )


class LearnerSpec(Section):
    """How candidates learn."""

    continue_: BoostingSpec = Field(
        BoostingSpec(num_iterations=10, learning_rate=0.02, num_leaves=15, min_data_in_leaf=50),
        alias="continue",
        description="The boosting step on each new batch.",
    )
    retrain: BoostingSpec = Field(
        BoostingSpec(num_iterations=200, learning_rate=0.03, num_leaves=15, min_data_in_leaf=200),
        description="The boosting step from scratch on the replay sample.",
    )
    retrain_every: int = Field(7, ge=1, description="Windows from one retraining to the next.")
    max_iterations: int = Field(
        500,
        ge=1,
        description="Maximum number of boosting rounds; a step beyond it is a retraining.",
    )
    replay: ReplaySpec = ReplaySpec()
    seed: int = Field(0, ge=0, lt=2**31)
    parameters: dict[str, Scalar] = Field(
        {
            "lambda_l2": 5.0,
            "cat_smooth": 20.0,
            "min_data_per_group": 100,
            "feature_fraction": 0.8,
            "bagging_fraction": 0.8,
            "bagging_freq": 1,
        },
        description="Further LightGBM parameters, for both steps.",
    )

    @field_validator("parameters")
    @classmethod
    def _not_reserved(cls, value: Mapping[str, Scalar]) -> Mapping[str, Scalar]:
        for name in sorted(RESERVED_PARAMETERS & value.keys()):
            raise ValueError(f"`{name}` is set by tidemill; see `continue`, `retrain` and `seed`")
        return value


class GateSpec(Section):
    """When an updated model is deployed."""

    policy: Literal["guarded", "always", "manual"] = "guarded"
    min_effect: float = Field(
        0.001, ge=0, le=1, description="Gain that the entry test requires, as a share of the loss."
    )
    cluster_length: Duration | None = Field(
        None,
        gt=0,
        description="Rows in one cluster of event time are treated as dependent; "
        "by default the smaller of an hour and 1/24 of the window.",
    )
    pool_size: int = Field(
        6, ge=2, le=100, description="Number of judged windows that the guard pools."
    )
    min_rows: int = Field(
        300, ge=2, description="Minimum number of rows for a verdict of the guard."
    )
    min_clusters: int = Field(
        8, ge=2, description="Minimum number of clusters for a verdict of the guard."
    )
    min_tail_rows: int = Field(
        30, ge=2, description="Minimum number of tail rows for the entry test."
    )
    slices: list[str] = Field(
        [], description="Category fields for which a report has losses per value."
    )


class InitialSpec(Section):
    """The historical data of the initial model: the topic before the first window, or a file."""

    start: date | datetime | None = Field(
        None,
        alias="from",
        description="Event time at which the topic's history starts; by default all of it.",
    )
    file: str | None = Field(
        None, description="A .parquet, .csv or .jsonl file, relative to defs.yaml."
    )
    time_column: str | None = Field(None, description="The column of event time in the file.")

    @model_validator(mode="after")
    def _one_source(self) -> "InitialSpec":
        if self.file is not None and self.time_column is None:
            raise ValueError(
                "`initial.file` requires `initial.time_column`, the column of event time"
            )
        if self.file is not None and self.start is not None:
            raise ValueError(
                "`initial.from` applies to the topic's history; remove it or `initial.file`"
            )
        return self


class FreshnessSpec(Section):
    """When the model in service counts as stale."""

    max_lag: Duration | None = Field(
        None,
        gt=0,
        description="Maximum time since the end of the newest processed window; "
        "by default the length of two windows.",
    )
    clock: Literal["wall", "event_time"] = Field(
        "wall",
        description="`wall`: this machine's clock. `event_time`: the newest window that the log "
        "has closed, for a topic that replays the past.",
    )


class FieldSpec(Section):
    """One declared field of the event."""

    type: FieldType
    optional: bool = Field(
        False, description="Whether the field may be missing from whole windows."
    )
