"""Direct deployments: ledger entries and bundles that bypass validation."""

import re
from dataclasses import replace
from typing import TYPE_CHECKING

import msgspec

from support.kafka.clients import make_producer
from support.models.harness import ModelHarness, run_window, run_windows, window
from tidemill import bootstrap
from tidemill.core import canonical
from tidemill.core.bundle import Model
from tidemill.core.ledger import Entry
from tidemill.cycle.context import ModelContext
from tidemill.cycle.names import bundle_name
from tidemill.cycle.tracking import Recorder
from tidemill.settings import Settings

if TYPE_CHECKING:
    from tidemill.adapters.mlflow.tracker import MlflowTracker


def deploy_windows(harness: ModelHarness, last: int = 1) -> ModelHarness:
    """The harness with each of windows 0 to `last` deployed, and the events of five more."""
    harness.define(gate={"min_rows": 50, "policy": "always"})
    harness.produce_windows(-2, last + 6)
    with harness.open_model() as ctx:
        run_windows(ctx, 0, last)
    return harness


def record_window(ctx: ModelContext, settings: Settings, number: int) -> None:
    """Record a window and the ledger's deployments in MLflow."""
    recorder = Recorder(ctx, require_tracker(settings))
    recorder.record_window(window(ctx.spec, number))
    recorder.record_deployments()


def run_and_record_window(ctx: ModelContext, settings: Settings, number: int) -> None:
    """Run a window through the four steps and record it in MLflow."""
    run_window(ctx, number)
    record_window(ctx, settings, number)


def require_tracker(settings: Settings) -> "MlflowTracker":
    """The tracker of these settings, which must be enabled."""
    tracker = bootstrap.make_tracker(settings)
    assert tracker is not None
    return tracker


class LedgerAppender:
    """Appends consecutive entries to a harness's ledger, which it reads only once."""

    def __init__(self, harness: ModelHarness, ctx: ModelContext) -> None:
        head = ctx.chain().head
        assert head is not None
        self._entry, self._hash, self._topic = head.entry, head.hash, harness.ledger
        self._producer = make_producer(harness.bootstrap_servers)

    def deploy(self, digest: str) -> Entry:
        """Append an entry that deploys this digest, without any check."""
        manual_fields = {"kind": "approve", "verdict": None, "evidence": None, "actor": "operator"}
        seq, reason = self._entry.seq + 1, "a test"
        entry = replace(
            self._entry, seq=seq, digest=digest, reason=reason, prev=self._hash, **manual_fields
        )
        value = canonical.encode(entry)
        self._producer.produce(self._topic, value, entry.model.encode(), 0)
        assert self._producer.flush(30) == 0
        self._entry, self._hash = entry, canonical.digest(value)
        return entry


def substitute(bundle: bytes, pattern: bytes, replacement: bytes, count: int = 0) -> bytes:
    """The bundle with the matches of the pattern, at least one, replaced."""
    result, changes = re.subn(pattern, replacement, bundle, count=count)
    assert changes
    return result


def with_cyclic_trees(bundle: bytes) -> bytes:
    """The bundle with trees whose nodes all point back to the root."""
    for side in (b"left_child", b"right_child"):
        bundle = substitute(bundle, side + rb"=.*", side + b"=0 0 0")
    return substitute(bundle, rb"tree_sizes=.*\n", b"")


def with_excessive_golden_rows(bundle: bytes) -> bytes:
    """The bundle with so many golden rows that validating it takes minutes."""
    _, _, tail = bundle.partition(b'"golden":[')
    first = tail[: tail.index(b"},{") + 2]
    return bundle[: -len(tail)] + first * 2_000_000 + tail


def with_recomputed_golden_rows(bundle: bytes) -> bytes:
    """The bundle with the predictions of its trees for its golden rows."""
    model = Model.load(bundle, canonical.digest(bundle), None)
    golden_rows = model.header.golden
    predictions = model.predict(
        model.decoder().rows([golden.row for golden in golden_rows])
    ).tolist()
    golden = tuple(replace(g, prediction=p) for g, p in zip(golden_rows, predictions, strict=True))
    header = msgspec.json.encode(replace(model.header, golden=golden), order="sorted")
    return header + b"\n" + model.text.encode()


def put_bundle(harness: ModelHarness, bundle: bytes) -> str:
    """Put arbitrary bytes into the store as a bundle; their digest."""
    digest = canonical.digest(bundle)
    path = harness.settings.store / harness.model / bundle_name(digest)
    path.write_bytes(bundle)
    return digest
