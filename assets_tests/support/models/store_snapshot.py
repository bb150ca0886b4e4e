"""Snapshots of a harness's store and ledger, to compare with those of a twin."""

from dataclasses import dataclass
from pathlib import Path

from support.models.harness import SPEC, ModelHarness, events
from tidemill import bootstrap
from tidemill.adapters.files import FileStore

_VOLATILE_NAMES = ("ledger/topic.json", "observations.json")
"""Files with the ledger's topic and the host's clock, which differ between twins."""


@dataclass(frozen=True)
class StoreSnapshot:
    """The bytes of every stored file by name, and the hashes of the ledger's entries."""

    files: dict[str, bytes]
    entries: list[str]
    void_count: int


def take_snapshot(harness: ModelHarness) -> StoreSnapshot:
    store = bootstrap.make_store(harness.settings)
    names = [
        name for name in store.names(f"{harness.model}/") if not name.endswith(_VOLATILE_NAMES)
    ]
    with harness.open_model() as ctx:
        chain = ctx.chain()
    files = {name: store.get(name) or b"" for name in names}
    return StoreSnapshot(files, [entry.hash for entry in chain.entries], len(chain.invalid_records))


def file_stamps(harness: ModelHarness) -> dict[Path, tuple[int, int]]:
    """Inode and modification time of every committed file, which reveal a rewrite."""
    names = FileStore(harness.settings.store).names(f"{harness.model}/")
    paths = (
        harness.settings.store / name for name in names if not name.endswith(_VOLATILE_NAMES[1])
    )
    return {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in paths}


def define_two_windows(harness: ModelHarness) -> None:
    """Define a model whose first two windows have every kind of commit.

    The first window continues and has a rejected row, the second retrains, both are deployed, and
    the third stays open.
    """
    harness.define(
        learner=SPEC["learner"] | {"retrain_every": 2},
        gate={"min_rows": 50, "policy": "always"},
    )
    harness.produce_windows(-2, 0, rows=160)
    harness.produce(0, [(events(0)[-1][0], b"no JSON")])
    harness.produce_windows(1, 2, rows=160)
