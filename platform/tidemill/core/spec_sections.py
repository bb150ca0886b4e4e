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
    "objective", "num_class", "num_threads", "seed", "deterministic", "force_row_wise",
    "learning_rate", "num_leaves", "min_data_in_leaf", "verbosity", "num_iterations",
}  # fmt: skip
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
    Field(ge=0, description="A whole number and a unit: 90s, 5m, 12h, 60d."),
]


class Section(BaseModel):
    """A part of `defs.yaml`: frozen, and a wrong key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, ignored_types=(cached_property,))


class WindowsSpec(Section):
    """How the stream is cut."""

    cron: str = Field("0 0 * * *", description="Five cron fields; a window lies between two ticks.")
    start: date | datetime = Field(description="Where the first window begins, in `timezone`.")
    timezone: str = Field("UTC", description="IANA name; only for windows of a day or longer.")
    confirmation_records: int = Field(
        20, ge=2, le=10_000, description="Data records looked at to confirm a boundary."
    )
    idle_timeout: Duration = Field(
        600_000,
        description="A Kafka partition that stands still this long no longer holds a window open, "
        "if another one has a confirmed boundary.",
    )
    close_after_silence: Duration | None = Field(
        None, description="Close windows when every partition has stood still this long."
    )

    @field_validator("timezone")
    @classmethod
    def _valid_timezone(cls, value: str) -> str:
        if value not in available_timezones():
            raise ValueError(f"{value!r} is no IANA timezone, such as Europe/Berlin or UTC")
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
    num_leaves: int = Field(15, ge=2, le=1024, description="Leaves per tree, at most.")
    min_data_in_leaf: int = Field(ge=1, description="Rows per leaf, at least.")


class ReplaySpec(Section):
    """The bounded, recency-biased sample that retrainings learn from."""

    rows: int = Field(70_000, ge=100, le=10_000_000, description="Rows kept, at most.")
    half_life: Duration = Field(
        60 * 86_400_000, gt=0, description="Age at which a row is half as likely to be kept."
    )


class LearnerSpec(Section):
    """How candidates learn."""

    continue_: BoostingSpec = Field(
        BoostingSpec(num_iterations=10, learning_rate=0.02, num_leaves=15, min_data_in_leaf=50),
        alias="continue",
        description="The step on each new batch.",
    )
    retrain: BoostingSpec = Field(
        BoostingSpec(num_iterations=200, learning_rate=0.03, num_leaves=15, min_data_in_leaf=200),
        description="The step from scratch on the replay sample.",
    )
    retrain_every: int = Field(7, ge=1, description="Windows from one retraining to the next.")
    max_iterations: int = Field(
        500, ge=1, description="Boosting rounds a model may have; the next step is a retraining."
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
        description="Further LightGBM parameters, for both kinds of step.",
    )

    @field_validator("parameters")
    @classmethod
    def _not_reserved(cls, value: Mapping[str, Scalar]) -> Mapping[str, Scalar]:
        for name in sorted(RESERVED_PARAMETERS & value.keys()):
            raise ValueError(f"`{name}` is set by tidemill; see `continue`, `retrain` and `seed`")
        return value


class GateSpec(Section):
    """When an updated model takes over."""

    policy: Literal["guarded", "always", "manual"] = "guarded"
    min_effect: float = Field(
        0.001, ge=0, le=1, description="Share of the champion's loss that the entry test asks for."
    )
    cluster_length: Duration | None = Field(
        None,
        gt=0,
        description="Rows of one cluster of event time count as dependent; "
        "by default the smaller of an hour and 1/24 of the window.",
    )
    pool_size: int = Field(6, ge=2, le=100, description="Judged windows that the guard pools.")
    min_rows: int = Field(300, ge=2, description="Rows without which the guard gives no verdict.")
    min_clusters: int = Field(8, ge=2, description="Clusters likewise.")
    min_tail_rows: int = Field(30, ge=2, description="Tail rows the entry test needs.")
    slices: list[str] = Field([], description="Category fields whose values get losses by slice.")


class InitialSpec(Section):
    """The historical data of the initial model: the topic before the first window, or a file."""

    start: date | datetime | None = Field(
        None, alias="from", description="Event time the topic's history begins at; default: all."
    )
    file: str | None = Field(
        None, description="A .parquet, .csv or .jsonl file, relative to defs.yaml."
    )
    time_column: str | None = Field(None, description="The file's column of event time.")

    @model_validator(mode="after")
    def _one_source(self) -> "InitialSpec":
        if self.file is not None and self.time_column is None:
            raise ValueError("`initial.file` needs `initial.time`, the column of event time")
        if self.file is not None and self.start is not None:
            raise ValueError("`initial.from` is for the topic's history; remove it or `file`")
        return self


class FreshnessSpec(Section):
    """When the model in service counts as stale."""

    max_lag: Duration | None = Field(
        None,
        gt=0,
        description="How long after the end of the newest window that was worked through; "
        "by default the length of two windows.",
    )
    clock: Literal["wall", "log"] = Field(
        "wall",
        description="`wall`: this machine's clock. `log`: how far the log has come, for a stream "
        "that replays the past.",
    )


class FieldSpec(Section):
    """One declared field of the event."""

    type: FieldType
    optional: bool = Field(False, description="Whether whole windows may come without it.")
