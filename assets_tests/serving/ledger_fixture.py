"""A ledger to which a test may append, and what its models predict."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from support.kafka.ledgers import manual_entry
from support.models.harness import ModelHarness
from support.serving.prediction_server import predict_rows
from tidemill.core.ledger import Entry
from tidemill.cycle.context import ModelContext
from tidemill.cycle.ledger import append_entry


def predict_offline(ctx: ModelContext, digest: str, rows: Sequence[Mapping[str, Any]]) -> list[Any]:
    """What a stored model predicts for all rows at once, as evaluation does."""
    return predict_rows(ctx.load(digest), rows)


@dataclass(frozen=True)
class LedgerFixture:
    """A harness with bundles and an empty ledger, its context, and the digests of two bundles."""

    harness: ModelHarness
    ctx: ModelContext
    first_digest: str
    second_digest: str

    def deploy(self, digest: str) -> Entry:
        """Append an entry that deploys this model."""
        entry = append_entry(
            self.ctx, lambda chain: manual_entry(chain, digest, "operator", "a test")
        )
        assert entry is not None
        return entry
