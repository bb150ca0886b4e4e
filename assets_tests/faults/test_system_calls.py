"""Every system call that changes the store: killed, failed, and in the correct order."""

from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path, PurePath

import pytest

from faults.syscall_trace import KINDS, Syscall, extract_first_window, trace
from support.models import oracle
from support.models.harness import ModelHarness, events
from support.models.store_snapshot import define_two_windows, take_snapshot
from support.processes.workers import KILLED, failure_output, run_all
from tidemill import bootstrap
from tidemill.adapters.files import FileStore
from tidemill.cycle.audit.verify import verify
from tidemill.cycle.context import ModelContext
from tidemill.cycle.steps.initial import initial

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
    """The names that these calls commit if all of them take effect."""
    return {call.paths[1] for call in calls if call.kind in ("link", "rename")}


def assert_recovers_to(twin: ModelHarness, expected: ModelHarness) -> None:
    """Assert that a rerun gives the same plan, manifest and digests, and no other file."""
    with bootstrap.open_model(twin.load_spec(), twin.settings, exclusive=True) as ctx:
        extract_first_window(ctx)
        assert verify(ctx).findings == []
    assert take_snapshot(twin) == take_snapshot(expected)
    assert not [*(twin.settings.store / twin.model / ".tmp").glob("*")]


def out_of_order(calls: list[Syscall]) -> Iterator[str]:
    """Descriptions of commits that precede the sync of their bytes or are not synced at once."""
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


def test_each_name_is_committed_after_its_bytes_and_synced_at_once(
    harness: ModelHarness,
) -> None:
    """Fault 2: the order that a power failure depends on, for everything that windows commit.

    Bytes are written, the file is synced, the name is linked, the folder is synced. A kill -9
    cannot show this because it keeps what the kernel has.
    """
    define_two_windows(harness)
    exit_code, calls = trace(harness, partial(run_all, last=1), threads=True)
    assert exit_code == 0, failure_output(harness)
    assert committed_names(calls) == store_names(harness)
    assert list(out_of_order(calls)) == []
    kinds = {PurePath(name).relative_to(harness.model).parts[0] for name in committed_names(calls)}
    assert kinds >= {"plans", "batches", "models", "candidates", "reports", "ledger", "samples"}


def test_an_extract_killed_at_every_system_call_is_completed_as_if_undisturbed(
    fed_harness: ModelHarness, kafka_folder: Path
) -> None:
    """Fault 2: each call is killed before it takes effect."""
    expected = fed_harness.twin("undisturbed")
    exit_code, calls = trace(expected, extract_first_window, threads=True)
    assert exit_code == 0, failure_output(expected)
    assert len({call.thread for call in calls}) == 1

    def kill_at(call: Syscall) -> None:
        twin = fed_harness.twin(f"{call.kind}-{call.number}")
        fault = f"{call.kind}:signal=SIGKILL:when={call.number}"
        exit_code, twin_calls = trace(twin, extract_first_window, fault)
        assert exit_code == KILLED
        assert [c.description for c in twin_calls] == [
            c.description for c in calls[: len(twin_calls)]
        ]
        assert (twin_calls[-1].description, twin_calls[-1].result) == (call.description, "?")
        assert store_names(twin) == committed_names(twin_calls[:-1])
        assert_recovers_to(twin, expected)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(kill_at, calls))
    oracle.assert_consistent(expected)
    oracle.assert_matches_log(expected, kafka_folder)
    kinds = Counter(call.kind for call in calls)
    print(f"killed at each of {len(calls)} system calls: {dict(kinds)}")
    assert kinds.keys() == KINDS.keys()


def test_a_failed_fsync_fails_the_run_is_not_retried_and_the_file_is_rewritten(
    fed_harness: ModelHarness, kafka_folder: Path
) -> None:
    """Fault 3: EIO at every fsync of an extract, of files and folders: plan, data, manifest."""
    expected = fed_harness.twin("undisturbed")
    exit_code, calls = trace(expected, extract_first_window)
    assert exit_code == 0, failure_output(expected)

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
    )  # of each file and its folder, plus new folders
    print(f"EIO at each of {len(syncs)} fsyncs")


def test_a_bundle_and_a_ledger_copy_are_discarded_if_their_fsync_fails(
    fed_harness: ModelHarness,
) -> None:
    """Fault 3: the entry is in the topic by then, and the next run copies it."""
    expected = fed_harness.twin("undisturbed")
    exit_code, calls = trace(expected, initial)
    assert exit_code == 0, failure_output(expected)
    for name in ("/models/", "/ledger/0"):
        index = next(
            index for index, c in enumerate(calls) if c.kind == "link" and name in c.paths[1]
        )
        twin = fed_harness.twin(f"fsync-{index}")
        assert_discarded(twin, initial, calls[index - 1])
        with twin.open_model() as ctx:
            initial(ctx)
            assert len(ctx.chain().entries) == 1
        assert take_snapshot(twin).files == take_snapshot(expected).files
    oracle.assert_consistent(twin)


def assert_discarded(
    twin: ModelHarness, target: Callable[[ModelContext], object], call: Syscall
) -> None:
    """Fail this fsync; assert that the run fails and the file is discarded, not resynced."""
    exit_code, calls = trace(twin, target, f"fsync:error=EIO:when={call.number}")
    assert exit_code == 1
    assert "StoreFailed: The store" in failure_output(twin)
    (index,) = (i for i, c in enumerate(calls) if c.result.startswith("-1 EIO"))
    failed_call, after = calls[index], calls[index + 1 :]
    assert failed_call.description == call.description
    assert not [c for c in after if c.kind == "fsync"]
    before = calls[index - 1]
    if before.kind == "rename":  # the old file is gone; the next run replaces it again
        assert before.paths[1] in store_names(twin)
    else:
        assert before.paths[-1] in {path for c in after if c.kind == "unlink" for path in c.paths}
        assert not (twin.settings.store / before.paths[-1]).exists()
        assert store_names(twin) == committed_names(calls[: index - 1])
