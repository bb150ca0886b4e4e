"""Every system call by which the store changes: killed there, refused there, in the right order."""

from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path, PurePath

import pytest

import oracle
from bench import Bench, events
from children import KILLED, journey, words
from kept import define_two_windows, kept
from system_calls import KINDS, Call, one_extract, traced
from tidemill import bootstrap
from tidemill.adapters.files import FileStore
from tidemill.cycle.initial import initial
from tidemill.cycle.mill import ModelContext
from tidemill.cycle.verify import verify

pytestmark = pytest.mark.faults


@pytest.fixture
def fed(bench: Bench) -> Bench:
    """A closed window with a rejected row, the history before it, and an open window."""
    bench.feed(-2, 0, rows=160)
    bench.put(0, [(events(0)[-1][0], b"no JSON")])
    bench.feed(1, 1, rows=160)
    return bench


def visible(bench: Bench) -> set[str]:
    return set(FileStore(bench.settings.store).names(""))


def committed(calls: list[Call]) -> set[str]:
    """The names that these calls have made, if all of them took effect."""
    return {call.paths[1] for call in calls if call.kind in ("link", "rename")}


def ends_as_expected(twin: Bench, expected: Bench) -> None:
    """Run again: the same plan, one manifest, the same digests, and nothing beside."""
    with bootstrap.open_model(twin.model, twin.settings, exclusive=True) as mill:
        one_extract(mill)
        assert verify(mill).findings == []
    assert kept(twin) == kept(expected)
    assert not [*(twin.settings.store / twin.model / ".tmp").glob("*")]


def out_of_order(calls: list[Call]) -> Iterator[str]:
    """What is committed before it is durable, or not made durable at once."""
    for at, call in enumerate(calls):
        after = next((c for c in calls[at + 1 :] if c.thread == call.thread), None)
        synced = after is not None and after.kind == "fsync"
        if call.kind in ("link", "rename"):
            before = [c.kind for c in calls[:at] if call.paths[0] in c.paths]
            if before[-1:] != ["fsync"] or set(before[:-1]) != {"write"}:
                yield f"{call.told} after only {before}"
        if call.kind in ("link", "rename", "mkdir"):
            parent = str(PurePath(call.paths[-1]).parent) if call.paths[-1] != "." else ".."
            if not synced or after is None or after.paths != (parent,):
                yield f"{call.told} is not followed by an fsync of {parent}"


def test_each_name_is_committed_after_its_bytes_and_before_anything_else(bench: Bench) -> None:
    """Row 2: kill -9 keeps what the kernel has, so only the order tells what a power cut leaves:
    bytes written, file synced, name linked, folder synced. For everything that windows commit."""
    define_two_windows(bench)
    ended, calls = traced(bench, partial(journey, last=1), threads=True)
    assert ended == 0, words(bench)
    assert committed(calls) == visible(bench)
    assert list(out_of_order(calls)) == []
    kinds = {PurePath(name).relative_to(bench.model).parts[0] for name in committed(calls)}
    assert kinds >= {"plans", "batches", "models", "candidates", "reports", "ledger", "samples"}


def test_killed_at_every_system_call_of_an_extract_the_next_one_ends_as_if_undisturbed(
    fed: Bench, kafka_folder: Path
) -> None:
    """Row 2: each call is killed before it takes effect."""
    expected = fed.twin("undisturbed")
    ended, calls = traced(expected, one_extract, threads=True)
    assert ended == 0, words(expected)
    assert len({call.thread for call in calls}) == 1

    def kill_at(call: Call) -> None:
        twin = fed.twin(f"{call.kind}-{call.number}")
        fault = f"{call.kind}:signal=SIGKILL:when={call.number}"
        ended, made = traced(twin, one_extract, fault)
        assert ended == KILLED
        assert [c.told for c in made] == [c.told for c in calls[: len(made)]]
        assert (made[-1].told, made[-1].result) == (call.told, "?")
        assert visible(twin) == committed(made[:-1])
        ends_as_expected(twin, expected)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(kill_at, calls))
    oracle.check(expected)
    oracle.check_against_the_log(expected, kafka_folder)
    kinds = Counter(call.kind for call in calls)
    print(f"killed at each of {len(calls)} system calls: {dict(kinds)}")
    assert kinds.keys() == KINDS.keys()


def test_a_failed_fsync_ends_the_run_by_name_is_never_tried_again_and_the_file_is_made_anew(
    fed: Bench, kafka_folder: Path
) -> None:
    """Row 3: EIO at every fsync of an extract, of files and folders: plan, data, manifest."""
    expected = fed.twin("undisturbed")
    ended, calls = traced(expected, one_extract)
    assert ended == 0, words(expected)

    def fail_at(call: Call) -> None:
        twin = fed.twin(f"fsync-{call.number}")
        discarded(twin, one_extract, call)
        ends_as_expected(twin, expected)

    syncs = [call for call in calls if call.kind == "fsync"]
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(fail_at, syncs))
    oracle.check(expected)
    oracle.check_against_the_log(expected, kafka_folder)
    assert len(syncs) > 2 * len(visible(expected))  # of each file and its folder, and new folders
    print(f"EIO at each of {len(syncs)} fsyncs")


def test_a_bundle_and_a_ledgers_copy_are_discarded_too_when_their_fsync_fails(
    fed: Bench,
) -> None:
    """Row 3: the entry stands in the topic then, and is copied by the next run."""
    expected = fed.twin("undisturbed")
    ended, calls = traced(expected, initial)
    assert ended == 0, words(expected)
    for name in ("/models/", "/ledger/0"):
        at = next(at for at, c in enumerate(calls) if c.kind == "link" and name in c.paths[1])
        twin = fed.twin(f"fsync-{at}")
        discarded(twin, initial, calls[at - 1])
        with twin.mill() as mill:
            initial(mill)
            assert len(mill.chain().entries) == 1
        assert kept(twin).files == kept(expected).files
    oracle.check(twin)


def discarded(twin: Bench, does: Callable[[ModelContext], object], call: Call) -> None:
    """Let this fsync fail: the run ends by name, and what it was for is gone, not synced again."""
    ended, made = traced(twin, does, f"fsync:error=EIO:when={call.number}")
    assert ended == 1
    assert "StoreFailed: The store" in words(twin)
    (at,) = (i for i, c in enumerate(made) if c.result.startswith("-1 EIO"))
    failed, after = made[at], made[at + 1 :]
    assert failed.told == call.told
    assert not [c for c in after if c.kind == "fsync"]
    before = made[at - 1]
    if before.kind == "rename":  # what was replaced is no more: the next run replaces it again
        assert before.paths[1] in visible(twin)
    else:
        assert before.paths[-1] in {path for c in after if c.kind == "unlink" for path in c.paths}
        assert not (twin.settings.store / before.paths[-1]).exists()
        assert visible(twin) == committed(made[: at - 1])
