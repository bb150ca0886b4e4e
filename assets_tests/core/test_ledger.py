"""Every reader of the same records gets the same deployments."""

from hypothesis import given
from hypothesis import strategies as st

from tidemill.core import canonical
from tidemill.core.event_log import LedgerRecord
from tidemill.core.ledger import Chain, Entry, EntryKind, build_chain, manual_entries_since


def entry(
    previous: Chain, digest: str = "d", kind: EntryKind = "deploy", as_of_ms: int | None = None,
    evidence: str | None = "report",
) -> Entry:  # fmt: skip
    seq, prev = previous.next_position
    return Entry(
        model=previous.model, seq=seq, kind=kind, digest=digest, as_of=None, as_of_ms=as_of_ms,
        verdict=None, evidence=evidence, actor="test", reason="a test", prev=prev,
    )  # fmt: skip


def records(*values: bytes) -> list[LedgerRecord]:
    return [LedgerRecord(offset, value) for offset, value in enumerate(values)]


def ledger_values(*digests: str, model: str = "m") -> list[bytes]:
    values: list[bytes] = []
    for digest in digests:
        values.append(canonical.encode(entry(build_chain(model, records(*values)), digest)))
    return values


def test_entries_that_follow_one_another_are_valid() -> None:
    chain = build_chain("m", records(*ledger_values("a", "b", "c")))
    assert [s.entry.digest for s in chain.entries] == ["a", "b", "c"]
    assert chain.head is not None
    assert chain.head.entry.seq == 2


def test_of_two_writers_at_the_same_head_the_second_is_permanently_invalid() -> None:
    first = ledger_values("a")
    head = build_chain("m", records(*first))
    left, right = canonical.encode(entry(head, "l")), canonical.encode(entry(head, "r"))
    after = build_chain("m", records(*first, left, right))
    assert [s.entry.digest for s in after.entries] == ["a", "l"]
    assert [v.offset for v in after.invalid_records] == [2]
    assert after.invalid_records[0].reason == "its seq 1 and prev do not follow entry 1"
    later = canonical.encode(entry(after, "x"))
    assert (
        build_chain("m", records(*first, left, right, later)).invalid_records
        == after.invalid_records
    )


def test_the_same_bytes_again_are_invalid() -> None:
    values = ledger_values("a", "b")
    chain = build_chain("m", records(*values, values[-1]))
    assert len(chain.entries) == 2
    assert [v.offset for v in chain.invalid_records] == [2]


def test_an_edited_entry_invalidates_what_follows_it() -> None:
    values = ledger_values("a", "b", "c")
    edited = values[1].replace(b'"b"', b'"x"')
    assert [
        s.entry.digest for s in build_chain("m", records(values[0], edited, values[2])).entries
    ] == [
        "a",
        "x",
    ]


def test_models_do_not_see_each_other_and_malformed_records_are_ignored() -> None:
    ours, theirs = ledger_values("a", "b"), ledger_values("z", model="n")
    mixed = records(ours[0], b"\xff\x00", theirs[0], b"{}", ours[1])
    assert [s.entry.digest for s in build_chain("m", mixed).entries] == ["a", "b"]
    assert [s.entry.digest for s in build_chain("n", mixed).entries] == ["z"]


@given(st.lists(st.sampled_from("abr"), max_size=8), st.data())
def test_a_ledger_read_in_two_parts_gives_the_same_chain(
    kinds: list[str], data: st.DataObject
) -> None:
    values: list[bytes] = []
    for kind in kinds:  # an entry, the previous bytes again, or a malformed record
        head = build_chain("m", records(*values))
        choices = {"a": canonical.encode(entry(head, "a")), "r": b"rubbish"}
        values.append(choices.get(kind) or (values[-1] if values else b""))
    cut = data.draw(st.integers(0, len(values)))
    all_records = records(*values)
    assert build_chain("m", all_records[cut:], build_chain("m", all_records[:cut])) == build_chain(
        "m", all_records
    )


@given(st.lists(st.sampled_from("mn"), max_size=12))
def test_interleaving_of_models_never_matters(order: list[str]) -> None:
    values = {model: ledger_values(*(f"{model}{i}" for i in range(order.count(model))), model=model)
              for model in "mn"}  # fmt: skip
    queues = {model: iter(values[model]) for model in "mn"}
    mixed = records(*(next(queues[model]) for model in order))
    for model in "mn":
        assert [s.entry.seq for s in build_chain(model, mixed).entries] == list(
            range(order.count(model))
        )


def test_a_report_applies_manual_entries_once_in_order_and_not_before_their_time() -> None:
    values = ledger_values("a")
    for kind, as_of in (("rollback", 100), ("deploy", 150), ("approve", 300), ("rollback", 100)):
        previous = build_chain("m", records(*values))
        by_gate = kind == "deploy"
        next_entry = entry(previous, kind, kind, as_of, "report" if by_gate else None)  # type: ignore[arg-type]
        values.append(canonical.encode(next_entry))
    chain = build_chain("m", records(*values))
    assert [s.entry.seq for s in manual_entries_since(chain, -1, 100)] == [1]
    assert [s.entry.seq for s in manual_entries_since(chain, 1, 200)] == []
    assert [s.entry.seq for s in manual_entries_since(chain, 1, 300)] == [3, 4]
    assert [s.entry.seq for s in manual_entries_since(chain, 4, 900)] == []


def test_a_rollback_by_the_gate_is_not_a_manual_entry() -> None:
    gate = entry(Chain("m"), kind="rollback", evidence="report")
    assert not gate.is_manual
    assert entry(Chain("m"), kind="rollback", evidence=None).is_manual
