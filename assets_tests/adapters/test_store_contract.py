"""The contract of `Store`, tested on all adapters."""

import os
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier, Thread

import pytest

from support.servers.s3 import S3Server, write_credentials
from tidemill import failpoints
from tidemill.adapters.files import FileStore
from tidemill.adapters.memory.store import MemoryStore, OverlayStore
from tidemill.adapters.s3 import S3Store
from tidemill.core.errors import OperationNotAllowed, StoreFailed, StoreFull
from tidemill.ports import Store

STORES: dict[str, Callable[[Path], Store]] = {
    "memory": lambda _: MemoryStore(),
    "files": lambda path: FileStore(path / "store"),
    "overlay": lambda _: OverlayStore(MemoryStore(), hidden_prefix="m/"),
}


@pytest.fixture(params=[*STORES, "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "s3":
        server: S3Server = request.getfixturevalue("s3")
        return server.open_store(server.create_bucket(uuid.uuid4().hex), "in/here")
    return STORES[request.param](tmp_path)


def test_a_put_object_is_returned(store: Store) -> None:
    assert store.put("m/a.json", b"one")
    assert store.get("m/a.json") == b"one"
    assert store.get("m/b.json") is None


def test_the_first_writer_wins(store: Store) -> None:
    assert store.put("m/a.json", b"one")
    assert not store.put("m/a.json", b"two")
    assert store.get("m/a.json") == b"one"


def test_of_many_writers_at_once_one_wins(store: Store) -> None:
    names, start = [f"m/race/{number}" for number in range(20)], Barrier(8)
    wins: dict[str, list[int]] = {name: [] for name in names}

    def write(i: int) -> None:
        for name in names:
            start.wait()
            if store.put(name, b"%d" % i * 10_000):
                wins[name].append(i)

    threads = [Thread(target=write, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for name in names:
        assert len(wins[name]) == 1
        assert store.get(name) == b"%d" % wins[name][0] * 10_000


def test_a_replaced_name_has_the_new_bytes(store: Store) -> None:
    store.replace("m/a.json", b"one")
    store.replace("m/a.json", b"two")
    assert store.get("m/a.json") == b"two"


def test_names_are_sorted_and_only_of_the_folder(store: Store) -> None:
    for name in ("m/b/2", "m/b/1", "m/bc/3", "n/b/4"):
        store.put(name, b"")
    assert list(store.names("m/b/")) == ["m/b/1", "m/b/2"]
    assert list(store.names("x/")) == []
    assert list(store.names("")) == ["m/b/1", "m/b/2", "m/bc/3", "n/b/4"]


def test_empty_and_large_objects_are_returned_unchanged(store: Store) -> None:
    for name, data in (("m/none", b""), ("m/many", os.urandom(1_000_000))):
        assert store.put(name, data)
        assert store.get(name) == data


def test_more_names_than_one_page_of_a_server_are_all_listed(store: Store) -> None:
    names = [f"m/many/{number:04d}" for number in range(1_100)]
    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(lambda name: store.put(name, b""), names))
    assert list(store.names("m/")) == names


def test_recover_changes_no_committed_object(store: Store) -> None:
    store.put("m/a", b"one")
    store.recover("m")
    store.recover("m")
    assert list(store.names("")) == ["m/a"]
    assert store.get("m/a") == b"one"


def test_a_deleted_name_is_free_again(store: Store) -> None:
    store.put("m/a", b"one")
    store.delete("m/a")
    store.delete("m/a")
    assert store.put("m/a", b"two")


@pytest.fixture
def durability_calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """The calls that make bytes and names durable, in order, each with its file or folder."""
    calls: list[tuple[str, str]] = []
    fsync, link, replace = os.fsync, os.link, os.replace

    def name(path: object) -> str:
        inside = Path(str(path)).relative_to(tmp_path)
        return "temp file" if ".tmp" in inside.parts and len(inside.parts) == 3 else str(inside)

    def synced(handle: int) -> None:
        calls.append(("fsync", name(os.readlink(f"/proc/self/fd/{handle}"))))
        fsync(handle)

    def linked(temp_file: Path, path: Path) -> None:
        calls.append(("link", name(path)))
        link(temp_file, path)

    def replaced(temp_file: Path, path: Path) -> None:
        calls.append(("rename", name(path)))
        replace(temp_file, path)

    for call, spy in (("fsync", synced), ("link", linked), ("replace", replaced)):
        monkeypatch.setattr(os, call, spy)
    return calls


def test_bytes_are_durable_before_they_have_a_name_and_the_name_before_the_call_ends(
    tmp_path: Path, durability_calls: list[tuple[str, str]]
) -> None:
    store = FileStore(tmp_path)
    store.put("m/plans/a", b"one")
    assert durability_calls[-3:] == [
        ("fsync", "temp file"),
        ("link", "m/plans/a"),
        ("fsync", "m/plans"),
    ]
    # Each new folder is synced into its parent.
    assert durability_calls[:-3] == [("fsync", "."), ("fsync", "m"), ("fsync", "m")]
    durability_calls.clear()
    store.replace("m/plans/a", b"two")
    assert durability_calls == [
        ("fsync", "temp file"),
        ("rename", "m/plans/a"),
        ("fsync", "m/plans"),
    ]


def test_a_writer_overtaken_after_it_looked_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, fsync = FileStore(tmp_path), os.fsync
    store.put("m/before", b"")

    def overtaken(handle: int) -> None:
        monkeypatch.setattr(os, "fsync", fsync)
        assert store.put("m/a", b"first")
        fsync(handle)

    monkeypatch.setattr(os, "fsync", overtaken)
    assert not store.put("m/a", b"second")
    assert store.get("m/a") == b"first"
    assert list((tmp_path / "m/.tmp").iterdir()) == []


@pytest.mark.parametrize("name", ["../a", "/etc/a", "m/../../a", "", "m/.tmp/a", "m/a\n", "m//a"])
def test_a_hostile_name_is_refused_and_writes_nothing(name: str, tmp_path: Path) -> None:
    unreachable = S3Store(
        "bucket", "", 1, "http://127.0.0.1:9", credentials=write_credentials(tmp_path / "keys")
    )
    for store in (FileStore(tmp_path / "store"), unreachable):
        with pytest.raises(OperationNotAllowed):
            store.put(name, b"x")
    assert [path.name for path in tmp_path.rglob("*")] == ["keys"]


@pytest.mark.parametrize("place", ["put.written", "put.synced"])
def test_a_full_disk_is_reported_and_leaves_nothing(place: str, tmp_path: Path) -> None:
    store = FileStore(tmp_path)
    failpoints.arm(f"{place}:enospc")
    with pytest.raises(StoreFull, match="No space left"):
        store.put("m/a", b"x")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    assert store.put("m/a", b"x")


@pytest.mark.parametrize("place", ["put.written", "put.synced", "put.linked"])
def test_a_failed_fsync_is_named_and_what_it_was_for_is_discarded(
    place: str, tmp_path: Path
) -> None:
    """A name whose folder was not synced is removed, so that no later work depends on it."""
    store = FileStore(tmp_path)
    failpoints.arm(f"{place}:eio")
    with pytest.raises(StoreFailed, match=r"cannot write m/a \(1 bytes\): Input/output"):
        store.put("m/a", b"x")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    assert store.put("m/a", b"x")


def test_unfinished_files_are_not_listed_and_are_removed_by_recover(tmp_path: Path) -> None:
    store = FileStore(tmp_path)
    store.put("m/a", b"x")
    (tmp_path / "m/.tmp").mkdir(exist_ok=True)
    (tmp_path / "m/.tmp/left").write_bytes(b"half")
    assert list(store.names("")) == ["m/a"]
    store.recover("m")
    assert not (tmp_path / "m/.tmp").exists()


def test_recover_syncs_what_a_crashed_writer_may_not_have_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A leftover temp file means that a committed name may be lost in a power failure."""
    store, synced = FileStore(tmp_path), []
    store.put("m/plans/a", b"x")
    fsync = os.fsync
    monkeypatch.setattr(
        os, "fsync", lambda fd: (synced.append(os.readlink(f"/proc/self/fd/{fd}")), fsync(fd))
    )
    store.recover("m")
    assert synced == []
    (tmp_path / "m/.tmp").mkdir()
    (tmp_path / "m/.tmp/left").write_bytes(b"half")
    store.recover("m")
    assert {str(tmp_path / "m"), str(tmp_path / "m/plans")} <= set(synced)


def test_an_overlay_shows_all_but_hidden_names_of_its_base_and_never_writes_to_it() -> None:
    base = MemoryStore()
    base.put("m/plans/a", b"plan")
    base.put("m/reports/a", b"report")
    store = OverlayStore(base, hidden_prefix="m/reports/")
    assert list(store.names("m/")) == ["m/plans/a"]
    assert not store.put("m/plans/a", b"another")
    assert store.put("m/reports/a", b"another")
    store.replace("m/plans/a", b"another")
    assert (base.get("m/plans/a"), base.get("m/reports/a")) == (b"plan", b"report")
    assert (store.get("m/plans/a"), store.get("m/reports/a")) == (b"another", b"another")
