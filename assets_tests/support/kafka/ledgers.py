"""Ledgers: their topics, and entries by an operator."""

from support.kafka import clients
from support.models.harness import ModelHarness
from tidemill.core.ledger import Chain, Entry


def delete_ledger_topic(harness: ModelHarness) -> None:
    """Delete the ledger's topic; the next access creates an empty one with the same name."""
    clients.delete_topic(harness.bootstrap_servers, harness.ledger)


def manual_entry(chain: Chain, digest: str, actor: str, reason: str) -> Entry:
    """The next entry of this chain, by which an operator deploys this model."""
    seq, prev = chain.next_position
    return Entry(
        model=chain.model,
        seq=seq,
        kind="approve",
        digest=digest,
        as_of=None,
        as_of_ms=None,
        verdict=None,
        evidence=None,
        actor=actor,
        reason=reason,
        prev=prev,
    )
