"""Deployments made directly: entries for a ledger's topic, and bundles that nobody proved."""

import re
from dataclasses import replace
from typing import TYPE_CHECKING

import msgspec
from confluent_kafka import Producer

from bench import Bench, run, turn, window
from tidemill import bootstrap
from tidemill.core import canonical
from tidemill.core.bundle import Model
from tidemill.core.ledger import Entry
from tidemill.cycle.archive import bundle_name
from tidemill.cycle.mill import ModelContext
from tidemill.cycle.record import Recorder
from tidemill.settings import Settings

if TYPE_CHECKING:
    from tidemill.adapters.mlflow import MlflowTracker


def deployed(bench: Bench, last: int = 1) -> Bench:
    """The same bench with windows 0 to `last` deployed, each, and the events of five more."""
    bench.define(gate={"min_rows": 50, "policy": "always"})
    bench.feed(-2, last + 6)
    with bench.mill() as mill:
        run(mill, 0, last)
    return bench


def recorded(mill: ModelContext, settings: Settings, number: int) -> None:
    """Bring MLflow's record up to a window and to the ledger."""
    recorder = Recorder(mill, tracker_of(settings))
    recorder.record_window(window(mill.spec, number))
    recorder.record_deployments()


def turned_and_recorded(mill: ModelContext, settings: Settings, number: int) -> None:
    """Take a window through the four steps and bring MLflow's record up to it."""
    turn(mill, number)
    recorded(mill, settings, number)


def tracker_of(settings: Settings) -> "MlflowTracker":
    """MLflow by these settings."""
    tracker = bootstrap.make_tracker(settings)
    assert tracker is not None
    return tracker


class Appender:
    """Appends entries behind each other to a bench's ledger, which it reads only at the start."""

    def __init__(self, bench: Bench, mill: ModelContext) -> None:
        head = mill.chain().head
        assert head is not None
        self._entry, self._hash, self._topic = head.entry, head.hash, bench.ledger
        told = {"bootstrap.servers": bench.servers, "linger.ms": 0, "enable.idempotence": True}
        self._producer = Producer(told)

    def deploy(self, digest: str) -> Entry:
        """Append an entry that names this digest; nobody looks whether it should."""
        personal = {"kind": "approve", "verdict": None, "evidence": None, "by": "somebody"}
        seq, why = self._entry.seq + 1, "a test"
        entry = replace(self._entry, seq=seq, digest=digest, why=why, prev=self._hash, **personal)
        value = canonical.encode(entry)
        self._producer.produce(self._topic, value, entry.model.encode(), 0)
        assert self._producer.flush(30) == 0
        self._entry, self._hash = entry, canonical.digest(value)
        return entry


def altered(bundle: bytes, pattern: bytes, replacement: bytes, count: int = 0) -> bytes:
    """The bundle with what fits the pattern replaced; it does fit somewhere."""
    found, changes = re.subn(pattern, replacement, bundle, count=count)
    assert changes
    return found


def cyclic(bundle: bytes) -> bytes:
    """The bundle with trees of which every node leads back to the first."""
    for side in (b"left_child", b"right_child"):
        bundle = altered(bundle, side + rb"=.*", side + b"=0 0 0")
    return altered(bundle, rb"tree_sizes=.*\n", b"")


def endless(bundle: bytes) -> bytes:
    """The bundle with so many golden rows that a proof of it takes minutes."""
    _, _, rest = bundle.partition(b'"golden":[')
    first = rest[: rest.index(b"},{") + 2]
    return bundle[: -len(rest)] + first * 2_000_000 + rest


def answered_anew(bundle: bytes) -> bytes:
    """The bundle with the answers that its trees give to its golden rows."""
    model = Model.load(bundle, canonical.digest(bundle), None)
    known = model.header.golden
    told = model.predict(model.decoder().rows([golden.row for golden in known])).tolist()
    golden = tuple(replace(g, prediction=p) for g, p in zip(known, told, strict=True))
    header = msgspec.json.encode(replace(model.header, golden=golden), order="sorted")
    return header + b"\n" + model.text.encode()


def put_bundle(bench: Bench, bundle: bytes) -> str:
    """Put these bytes into the store as a model's, whatever they are; their digest."""
    digest = canonical.digest(bundle)
    path = bench.settings.store / bench.model / bundle_name(digest)
    path.write_bytes(bundle)
    return digest
