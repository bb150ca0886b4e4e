"""Every system call by which the store changes: killed there, refused there, in the right order."""

from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path, PurePath

import pytest

import oracle
from model_harness import ModelHarness, events
from store_snapshot import define_two_windows, take_snapshot
from syscall_trace import KINDS, Syscall, extract_first_window, trace
from tidemill import bootstrap
from tidemill.adapters.files import FileStore
from tidemill.cycle.context import ModelContext
from tidemill.cycle.initial import initial
from tidemill.cycle.verify import verify
from worker_processes import KILLED, failure_output, run_all

pytestmark = pytest.mark.faults


@pytest.fixture
def fed_harness(harness: ModelHarness) -> ModelHarness:
    """A closed window with a rejected row, the history before it, and an open window."""
    harness.produce_windows(-2, 0, rows=160)
    harness.produce(0, [(events(0)[-1][0], b"no JSON")])
    harness.produce_windows(1, 1, rows=160)
    return harness


def store_names(harness: ModelHarness) -> set[str]:
    return set(FileStore(harness.settings.store).names(""))


def committed_names(calls: list[Syscall]) -> set[str]:
    """The names that these calls have made, if all of them took effect."""
    return {call.paths[1] for call in calls if call.kind in ("link", "rename")}


def assert_recovers_to(twin: ModelHarness, expected: ModelHarness) -> None:
    """Run again: the same plan, one manifest, the same digests, and nothing beside."""
    with bootstrap.open_model(twin.model, twin.settings, exclusive=True) as ctx:
        extract_first_window(ctx)
        assert verify(ctx).findings == []
    assert take_snapshot(twin) == take_snapshot(expected)
    assert not [*(twin.settings.store / twin.model / ".tmp").glob("*")]


def out_of_order(calls: list[Syscall]) -> Iterator[str]:
    """What is committed before it is durable, or not made durable at once."""
    for index, call in enumerate(calls):
        after = next((c for c in calls[index + 1 :] if c.thread == call.thread), None)
        synced = after is not None and after.kind == "fsync"
        if call.kind in ("link", "rename"):
            before = [c.kind for c in calls[:index] if call.paths[0] in c.paths]
            if before[-1:] != ["fsync"] or set(before[:-1]) != {"write"}:
                yield f"{call.description} after only {before}"
        if call.kind in ("link", "rename", "mkdir"):
            parent = str(PurePath(call.paths[-1]).parent) if call.paths[-1] != "." else ".."
            if not synced or after is None or after.paths != (parent,):
                yield f"{call.description} is not followed by an fsync of {parent}"


def test_each_name_is_committed_after_its_bytes_and_before_anything_else(
    harness: ModelHarness,
) -> None:
    """Row 2: kill -9 keeps what the kernel has, so only the order tells what a power cut leaves:
    bytes written, file synced, name linked, folder synced. For everything that windows commit."""
    define_two_windows(harness)
    ended, calls = trace(harness, partial(run_all, last=1), threads=True)
    assert ended == 0, failure_output(harness)
    assert committed_names(calls) == store_names(harness)
    assert list(out_of_order(calls)) == []
    kinds = {PurePath(name).relative_to(harness.model).parts[0] for name in committed_names(calls)}
    assert kinds >= {"plans", "batches", "models", "candidates", "reports", "ledger", "samples"}


def test_killed_at_every_system_call_of_an_extract_the_next_one_ends_as_if_undisturbed(
    fed_harness: ModelHarness, kafka_folder: Path
) -> None:
    """Row 2: each call is killed before it takes effect."""
    expected = fed_harness.twin("undisturbed")
    ended, calls = trace(expected, extract_first_window, threads=True)
    assert ended == 0, failure_output(expected)
    assert len({call.thread for call in calls}) == 1

    def kill_at(call: Syscall) -> None:
        twin = fed_harness.twin(f"{call.kind}-{call.number}")
        fault = f"{call.kind}:signal=SIGKILL:when={call.number}"
        ended, made = trace(twin, extract_first_window, fault)
        assert ended == KILLED
        assert [c.description for c in made] == [c.description for c in calls[: len(made)]]
        assert (made[-1].description, made[-1].result) == (call.description, "?")
        assert store_names(twin) == committed_names(made[:-1])
        assert_recovers_to(twin, expected)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(kill_at, calls))
    oracle.assert_consistent(expected)
    oracle.assert_matches_log(expected, kafka_folder)
    kinds = Counter(call.kind for call in calls)
    print(f"killed at each of {len(calls)} system calls: {dict(kinds)}")
    assert kinds.keys() == KINDS.keys()


def test_a_failed_fsync_ends_the_run_by_name_is_never_tried_again_and_the_file_is_made_anew(
    fed_harness: ModelHarness, kafka_folder: Path
) -> None:
    """Row 3: EIO at every fsync of an extract, of files and folders: plan, data, manifest."""
    expected = fed_harness.twin("undisturbed")
    ended, calls = trace(expected, extract_first_window)
    assert ended == 0, failure_output(expected)

    def fail_at(call: Syscall) -> None:
        twin = fed_harness.twin(f"fsync-{call.number}")
        assert_discarded(twin, extract_first_window, call)
        assert_recovers_to(twin, expected)

    syncs = [call for call in calls if call.kind == "fsync"]
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(fail_at, syncs))
    oracle.assert_consistent(expected)
    oracle.assert_matches_log(expected, kafka_folder)
    assert len(syncs) > 2 * len(
        store_names(expected)
    )  # of each file and its folder, and new folders
    print(f"EIO at each of {len(syncs)} fsyncs")


def test_a_bundle_and_a_ledgers_copy_are_discarded_too_when_their_fsync_fails(
    fed_harness: ModelHarness,
) -> None:
    """Row 3: the entry stands in the topic then, and is copied by the next run."""
    expected = fed_harness.twin("undisturbed")
    ended, calls = trace(expected, initial)
    assert ended == 0, failure_output(expected)
    for name in ("/models/", "/ledger/0"):
        at = next(at for at, c in enumerate(calls) if c.kind == "link" and name in c.paths[1])
        twin = fed_harness.twin(f"fsync-{at}")
        assert_discarded(twin, initial, calls[at - 1])
        with twin.open_model() as mill:
            initial(mill)
            assert len(mill.chain().entries) == 1
        assert take_snapshot(twin).files == take_snapshot(expected).files
    oracle.assert_consistent(twin)


def assert_discarded(
    twin: ModelHarness, target: Callable[[ModelContext], object], call: Syscall
) -> None:
    """Let this fsync fail: the run ends by name, and what it was for is gone, not synced again."""
    exit_code, calls = trace(twin, target, f"fsync:error=EIO:when={call.number}")
    assert exit_code == 1
    assert "StoreFailed: The store" in failure_output(twin)
    (index,) = (i for i, c in enumerate(calls) if c.result.startswith("-1 EIO"))
    failed_call, after = calls[index], calls[index + 1 :]
    assert failed_call.description == call.description
    assert not [c for c in after if c.kind == "fsync"]
    before = calls[index - 1]
    if before.kind == "rename":  # what was replaced is no more: the next run replaces it again
        assert before.paths[1] in store_names(twin)
    else:
        assert before.paths[-1] in {path for c in after if c.kind == "unlink" for path in c.paths}
        assert not (twin.settings.store / before.paths[-1]).exists()
        assert store_names(twin) == committed_names(calls[: index - 1])
