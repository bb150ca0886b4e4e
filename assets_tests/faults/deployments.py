"""Windows that are all deployed, their record in MLflow, and entries that nothing checks."""

from dataclasses import replace
from typing import TYPE_CHECKING

from support.kafka.clients import make_producer
from support.models.harness import ModelHarness, run_window, run_windows, window
from tidemill import bootstrap
from tidemill.core import canonical
from tidemill.core.ledger import Entry
from tidemill.cycle.context import ModelContext
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
