"""What a bench has kept: its store and its ledger, to be compared with a twin's."""

from dataclasses import dataclass
from pathlib import Path

from model_harness import SPEC, ModelHarness, events
from tidemill import bootstrap
from tidemill.adapters.files import FileStore

_VOLATILE_NAMES = ("ledger/topic.json", "observations.json")
"""Where a ledger's own topic and the host's clock are told: no two twins have them equal."""


@dataclass(frozen=True)
class StoreSnapshot:
    """The bytes of every record and file by name, and the bytes of the ledger's entries."""

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
    """Inode and time of the last change of everything committed: a rewrite shows."""
    names = FileStore(harness.settings.store).names(f"{harness.model}/")
    paths = (
        harness.settings.store / name for name in names if not name.endswith(_VOLATILE_NAMES[1])
    )
    return {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in paths}


def define_two_windows(harness: ModelHarness) -> None:
    """A model with every kind of commit in two windows: the first continues and has a rejected
    row, the second retrains, both are deployed, and the third window stays open."""
    harness.define(
        learner=SPEC["learner"] | {"retrain_every": 2},
        gate={"min_rows": 50, "policy": "always"},
    )
    harness.produce_windows(-2, 0, rows=160)
    harness.produce(0, [(events(0)[-1][0], b"no JSON")])
    harness.produce_windows(1, 2, rows=160)
