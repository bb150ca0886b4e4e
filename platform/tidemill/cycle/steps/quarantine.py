"""Quarantine: refuse a batch that must not be learned from, and keep its raw records."""

from collections import Counter
from collections.abc import Mapping, Sequence

import polars as pl

from tidemill.core import historical_file
from tidemill.core.decoding import Rejected
from tidemill.core.errors import SchemaBroken, TooManyRejects
from tidemill.core.parquet import to_parquet
from tidemill.core.plans import Plan
from tidemill.cycle.context import ModelContext
from tidemill.cycle.model_store import file_ref
from tidemill.cycle.names import QUARANTINE

SCHEMA_MIN_ROWS = 20
"""With fewer rows, an absent field is not evidence that it was removed."""

_COLUMNS = {
    "_partition": pl.Int32,
    "_offset": pl.Int64,
    "_timestamp": pl.Int64,
    "reason": pl.String,
    "value": pl.Binary,
}


def reject_invalid_batch(
    ctx: ModelContext,
    plan: Plan,
    rows: int,
    rejected: Sequence[Rejected],
    absent: Mapping[str, int],
) -> None:
    """Refuse a batch with too many rejected records, or without a required field.

    `rows` is the number of decoded rows, `absent` the number of rows that lack each field. Raises
    `TooManyRejects`, or `SchemaBroken` with the name of the field. Then a file in `quarantine/`
    holds every raw record of the window, with the reason of each rejected one.
    """
    _check_rejects(ctx, plan, rows, rejected)
    _check_fields(ctx, plan, rows, rejected, absent)


def rejected_table(rejected: Sequence[Rejected]) -> pl.DataFrame:
    """Rejected records by partition and offset, with reason and raw value."""
    records = [(r.partition, r.offset, r.timestamp, r.reason, r.value) for r in rejected]
    return pl.DataFrame(records, schema=_COLUMNS, orient="row")


def _check_rejects(ctx: ModelContext, plan: Plan, rows: int, rejected: Sequence[Rejected]) -> None:
    limit = ctx.spec.max_reject_share
    if len(rejected) <= limit * (rows + len(rejected)):
        return
    reason, count = Counter(r.reason for r in rejected).most_common(1)[0]
    message = (
        f"{len(rejected)} of {rows + len(rejected)} records of window {plan.window} of "
        f"{ctx.model} are rejected, {count} of them because {reason}; the limit is {limit:.1%}. "
        f"The records are kept in {_quarantine(ctx, plan, rejected)}."
    )
    if any(reason.startswith(f"`{name}`") for name in (*ctx.spec.fields, ctx.spec.label)):
        raise SchemaBroken(message, _remedy(ctx, plan))
    raise TooManyRejects(message, _remedy(ctx, plan))


def _check_fields(
    ctx: ModelContext,
    plan: Plan,
    rows: int,
    rejected: Sequence[Rejected],
    absent: Mapping[str, int],
) -> None:
    missing = [
        name
        for name, field in ctx.spec.fields.items()
        if not field.optional and absent.get(name, 0) == rows
    ]
    if not missing or rows < SCHEMA_MIN_ROWS:
        return
    raise SchemaBroken(
        f"None of the {rows} rows of window {plan.window} of {ctx.model} has "
        f"{', '.join(f'`{name}`' for name in missing)}. "
        f"The records are kept in {_quarantine(ctx, plan, rejected)}.",
        f"If this is intended, declare `{missing[0]}: {ctx.spec.fields[missing[0]].type}?` in "
        f"defs.yaml. {_remedy(ctx, plan)}",
    )


def _quarantine(ctx: ModelContext, plan: Plan, rejected: Sequence[Rejected]) -> str:
    """Store every record of the window as it is in the log, and return the name of the file.

    From a file of historical data, only the rejected rows are stored: the rest is in that file.
    """
    table = rejected_table(rejected)
    if plan.epoch != historical_file.EPOCH:
        reasons = {(r.partition, r.offset): r.reason for r in rejected}
        records = [
            (record_batch.partition, *record, reasons.get((record_batch.partition, record[0])))
            for record_batch in ctx.event_log.read(plan.topic, plan.offset_ranges)
            for record in zip(
                record_batch.offsets, record_batch.timestamps, record_batch.values, strict=True
            )
        ]
        columns = ("_partition", "_offset", "_timestamp", "value", "reason")
        schema = {name: _COLUMNS[name] for name in columns}
        raw = pl.DataFrame(records, schema=schema, orient="row")
        table = raw.select(*_COLUMNS).sort("_partition", "_offset")
    data = to_parquet(table)
    ref = file_ref(f"{QUARANTINE}{plan.window}", "parquet", data)
    ctx.repository.put_file(ref, data)
    return f"{ctx.model}/{ref.name}"


def _remedy(ctx: ModelContext, plan: Plan) -> str:
    return (
        "Fix the producer or defs.yaml and run the window again, or leave it out with "
        f"`tidemill skip {ctx.model} {plan.window} --reason REASON`."
    )
