"""What every store promises, over all its adapters."""

import os
from collections.abc import Callable
from pathlib import Path
from threading import Barrier, Thread

import pytest

from tidemill import failpoints
from tidemill.adapters.files import FileStore
from tidemill.adapters.memory.store import MemoryStore, Overlay
from tidemill.core.errors import Refused, StoreFailed, StoreFull
from tidemill.ports import Store

STORES: dict[str, Callable[[Path], Store]] = {
    "memory": lambda _: MemoryStore(),
    "files": lambda path: FileStore(path / "store"),
    "overlay": lambda _: Overlay(MemoryStore(), hidden="m/"),
}


@pytest.fixture(params=STORES)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return STORES[request.param](tmp_path)


def test_what_was_put_is_there(store: Store) -> None:
    assert store.put("m/a.json", b"one")
    assert store.get("m/a.json") == b"one"
    assert store.get("m/b.json") is None


def test_the_first_writer_wins(store: Store) -> None:
    assert store.put("m/a.json", b"one")
    assert not store.put("m/a.json", b"two")
    assert store.get("m/a.json") == b"one"


def test_of_many_writers_at_once_one_wins(store: Store) -> None:
    start, wins = Barrier(8), []

    def write(i: int) -> None:
        start.wait()
        if store.put("m/race", b"%d" % i):
            wins.append(i)

    threads = [Thread(target=write, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(wins) == 1
    assert store.get("m/race") == b"%d" % wins[0]


def test_a_replaced_name_has_the_new_bytes(store: Store) -> None:
    store.replace("m/a.json", b"one")
    store.replace("m/a.json", b"two")
    assert store.get("m/a.json") == b"two"


def test_names_come_in_order_and_only_of_the_folder(store: Store) -> None:
    for name in ("m/b/2", "m/b/1", "m/bc/3", "n/b/4"):
        store.put(name, b"")
    assert list(store.names("m/b/")) == ["m/b/1", "m/b/2"]
    assert list(store.names("x/")) == []


def test_a_deleted_name_is_free_again(store: Store) -> None:
    store.put("m/a", b"one")
    store.delete("m/a")
    store.delete("m/a")
    assert store.put("m/a", b"two")


@pytest.fixture
def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """The calls that make bytes and names durable, in their order, each with its file or folder."""
    calls: list[tuple[str, str]] = []
    fsync, link, replace = os.fsync, os.link, os.replace

    def name(path: object) -> str:
        inside = Path(str(path)).relative_to(tmp_path)
        return "draft" if ".tmp" in inside.parts and len(inside.parts) == 3 else str(inside)

    def synced(handle: int) -> None:
        calls.append(("fsync", name(os.readlink(f"/proc/self/fd/{handle}"))))
        fsync(handle)

    def linked(draft: Path, path: Path) -> None:
        calls.append(("link", name(path)))
        link(draft, path)

    def replaced(draft: Path, path: Path) -> None:
        calls.append(("rename", name(path)))
        replace(draft, path)

    for call, instead in (("fsync", synced), ("link", linked), ("replace", replaced)):
        monkeypatch.setattr(os, call, instead)
    return calls


def test_bytes_are_durable_before_they_have_a_name_and_the_name_before_the_call_ends(
    tmp_path: Path, told: list[tuple[str, str]]
) -> None:
    store = FileStore(tmp_path)
    store.put("m/plans/a", b"one")
    assert told[-3:] == [("fsync", "draft"), ("link", "m/plans/a"), ("fsync", "m/plans")]
    assert told[:-3] == [("fsync", "."), ("fsync", "m"), ("fsync", "m")]  # folders, each in its own
    told.clear()
    store.replace("m/plans/a", b"two")
    assert told == [("fsync", "draft"), ("rename", "m/plans/a"), ("fsync", "m/plans")]


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
    store = FileStore(tmp_path / "store")
    with pytest.raises(Refused):
        store.put(name, b"x")
    assert list(tmp_path.rglob("*")) == []


@pytest.mark.parametrize("place", ["put.written", "put.synced"])
def test_a_full_disk_is_named_and_leaves_nothing(place: str, tmp_path: Path) -> None:
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
    """A name that its folder may not keep is taken back, so that nobody builds on it."""
    store = FileStore(tmp_path)
    failpoints.arm(f"{place}:eio")
    with pytest.raises(StoreFailed, match=r"cannot keep m/a \(1 bytes\): Input/output"):
        store.put("m/a", b"x")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    assert store.put("m/a", b"x")


def test_unfinished_files_are_no_names_and_are_swept(tmp_path: Path) -> None:
    store = FileStore(tmp_path)
    store.put("m/a", b"x")
    (tmp_path / "m/.tmp").mkdir(exist_ok=True)
    (tmp_path / "m/.tmp/left").write_bytes(b"half")
    assert list(store.names("")) == ["m/a"]
    store.sweep("m")
    assert not (tmp_path / "m/.tmp").exists()


def test_what_a_dead_writer_may_not_have_synced_is_synced_by_the_sweep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A draft that is left says that a name beside it may be lost with the power."""
    store, synced = FileStore(tmp_path), []
    store.put("m/plans/a", b"x")
    fsync = os.fsync
    monkeypatch.setattr(
        os, "fsync", lambda fd: (synced.append(os.readlink(f"/proc/self/fd/{fd}")), fsync(fd))
    )
    store.sweep("m")
    assert synced == []
    (tmp_path / "m/.tmp").mkdir()
    (tmp_path / "m/.tmp/left").write_bytes(b"half")
    store.sweep("m")
    assert {str(tmp_path / "m"), str(tmp_path / "m/plans")} <= set(synced)


def test_an_overlay_shows_the_store_below_but_what_it_hides_and_never_writes_there() -> None:
    below = MemoryStore()
    below.put("m/plans/a", b"plan")
    below.put("m/reports/a", b"report")
    store = Overlay(below, hidden="m/reports/")
    assert list(store.names("m/")) == ["m/plans/a"]
    assert not store.put("m/plans/a", b"another")
    assert store.put("m/reports/a", b"another")
    store.replace("m/plans/a", b"another")
    assert (below.get("m/plans/a"), below.get("m/reports/a")) == (b"plan", b"report")
    assert (store.get("m/plans/a"), store.get("m/reports/a")) == (b"another", b"another")
