"""Every stored record carries its format number, and a reader refuses any other number by name."""

import json
from dataclasses import replace

import pytest

from cycle.memory_model import make_memory_model, produce, stored_files
from support.models.harness import run_window
from tidemill.core import canonical
from tidemill.core.errors import FormatUnsupported
from tidemill.core.event_log import LedgerRecord
from tidemill.core.ledger import build_chain
from tidemill.cycle.context import ModelContext
from tidemill.cycle.steps.initial import initial

OTHER = canonical.FORMAT + 1


@pytest.fixture
def ctx() -> ModelContext:
    """A model with one learned window, one rollback and stored observations."""
    context = make_memory_model()
    produce(context, -3, 1)
    initial(context)
    run_window(context, 0)
    return context


def test_every_stored_record_carries_its_format(ctx: ModelContext) -> None:
    records = {n: data for n, data in stored_files(ctx).items() if not n.endswith(".parquet")}
    folders = {name.split("/")[1] for name in records}
    assert {
        "plans",
        "batches",
        "candidates",
        "reports",
        "ledger",
        "models",
        "initial.json",
    } <= folders
    for name, data in records.items():
        header = data.partition(b"\n")[0] if name.endswith(".bundle") else data
        assert json.loads(header)["format"] == canonical.FORMAT, name


def test_a_record_of_another_format_is_refused_by_name(ctx: ModelContext) -> None:
    plan = ctx.repository.plan("initial")
    assert plan is not None
    other = canonical.with_checksum(canonical.encode(replace(plan, format=OTHER)))
    ctx.repository.store.replace("m/plans/initial.json", other)
    with pytest.raises(FormatUnsupported, match=rf"m/plans/initial.json has format {OTHER}"):
        ctx.repository.plan("initial")


def test_a_ledger_entry_of_a_later_format_is_not_skipped(ctx: ModelContext) -> None:
    head = ctx.chain().entries[-1]
    later = replace(head.entry, seq=head.entry.seq + 1, prev=head.hash, format=OTHER)
    record = LedgerRecord(head.offset + 1, canonical.encode(later))
    with pytest.raises(FormatUnsupported, match=f"of model m has format {OTHER}"):
        build_chain("m", [record], ctx.chain())
    assert build_chain("other", [record]).entries == ()


def test_a_record_without_a_format_is_refused(ctx: ModelContext) -> None:
    name = "m/initial.json"
    body = canonical.verify_checksum(ctx.repository.store.get(name) or b"")
    assert body is not None
    record = json.loads(body)
    del record["format"]
    ctx.repository.store.replace(name, canonical.with_checksum(canonical.encode(record)))
    with pytest.raises(FormatUnsupported, match="has format None"):
        ctx.repository.initial_model()
