"""What a bench has kept: its store and its ledger, to be compared with a twin's."""

from dataclasses import dataclass
from pathlib import Path

from bench import SPEC, Bench, events
from tidemill import bootstrap
from tidemill.adapters.files import FileStore

_OWN = ("ledger/topic.json", "observations.json")
"""Where a ledger's own topic and the host's clock are told: no two twins have them equal."""


@dataclass(frozen=True)
class Kept:
    """The bytes of every record and file by name, and the bytes of the ledger's entries."""

    files: dict[str, bytes]
    entries: list[str]
    void: int


def kept(bench: Bench) -> Kept:
    store = bootstrap.make_store(bench.settings)
    names = [name for name in store.names(f"{bench.model}/") if not name.endswith(_OWN)]
    with bench.mill() as mill:
        chain = mill.chain()
    files = {name: store.get(name) or b"" for name in names}
    return Kept(files, [standing.hash for standing in chain.entries], len(chain.invalid_records))


def stamps(bench: Bench) -> dict[Path, tuple[int, int]]:
    """Inode and time of the last change of everything committed: a rewrite shows."""
    names = FileStore(bench.settings.store).names(f"{bench.model}/")
    paths = (bench.settings.store / name for name in names if not name.endswith(_OWN[1]))
    return {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in paths}


def define_two_windows(bench: Bench) -> None:
    """A model with every kind of commit in two windows: the first continues and has a rejected
    row, the second retrains, both are deployed, and the third window stays open."""
    bench.define(
        learner=SPEC["learner"] | {"retrain_every": 2},
        gate={"min_rows": 50, "policy": "always"},
    )
    bench.feed(-2, 0, rows=160)
    bench.put(0, [(events(0)[-1][0], b"no JSON")])
    bench.feed(1, 2, rows=160)
