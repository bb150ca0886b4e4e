"""The ledger: read a model's chain, append to it, and copy its entries into the store."""

from collections.abc import Callable

from tidemill.core import canonical
from tidemill.core.deployment import outcome_without_append
from tidemill.core.errors import LedgerBroken, LedgerLost, LogUnavailable, OperationNotAllowed
from tidemill.core.ledger import Chain, Entry, ValidEntry
from tidemill.core.windows import Window
from tidemill.cycle.context import ModelContext
from tidemill.failpoints import failpoint

_MAX_ATTEMPTS = 8

EntryBuilder = Callable[[Chain], Entry | None]


def read_chain(ctx: ModelContext) -> Chain:
    """The model's chain, checked against the copies in the store.

    Raises `LedgerLost` if entries are missing, and `LedgerBroken` if the newest differs from its
    copy. Comparing the newest is enough, because each entry contains the hash of the previous one.
    """
    identity, expected = ctx.ledger.identity(), ctx.repository.ledger_topic()
    if expected is not None and identity != expected:
        raise LedgerLost(
            f"The ledger topic has id {identity[1]} in cluster {identity[0]}; the entries of model "
            f"{ctx.model} were in topic {expected[1]} of cluster {expected[0]}.",
            f"Restore the old topic, or run `tidemill ledger restore {ctx.model}`.",
        )
    chain = ctx.chain()
    if ctx.repository.entry(len(chain.entries)) is not None:
        raise LedgerLost(
            f"The ledger topic holds {len(chain.entries)} entries of model {ctx.model}; "
            "the store has copies of more.",
            f"Restore the topic's records, or run `tidemill ledger restore {ctx.model}`.",
        )
    copy = ctx.repository.entry(len(chain.entries) - 1)
    if chain.head is not None and copy not in (None, chain.head.value):
        raise LedgerBroken(
            f"Entry {chain.head.entry.seq} of model {ctx.model} in the ledger topic, at offset "
            f"{chain.head.offset}, is not the one that was copied to the store.",
            f"Run `tidemill verify {ctx.model}`, which names every entry that was changed.",
        )
    _copy_entries(ctx, chain)
    return chain


def append_entry(ctx: ModelContext, build_entry: EntryBuilder) -> Entry | None:
    """Append the entry that `build_entry` returns for the chain, until one is valid or it returns
    None.

    If the outcome of an append is unknown, the ledger is searched for the entry before a retry.
    Raises `OperationNotAllowed` if other writers were faster too often, `LogUnavailable`, and what
    `read_chain` raises.
    """
    for _ in range(_MAX_ATTEMPTS):
        entry = build_entry(read_chain(ctx))
        if entry is None:
            return None
        value = canonical.encode(entry)
        failpoint("append.before")
        try:
            ctx.ledger.append(ctx.model, value)
        except LogUnavailable:
            if _find_entry(ctx.chain(), value) is None:
                raise
        failpoint("append.after")
        valid_entry = _find_entry(ctx.chain(), value)
        if valid_entry is not None:
            _copy_entries(ctx, ctx.chain())
            return valid_entry.entry
    raise OperationNotAllowed(
        f"Other writers appended to the ledger of model {ctx.model} first, {_MAX_ATTEMPTS} times "
        "in a row.",
        "Run the command again.",
    )


def has_pending_deployment(ctx: ModelContext, window: Window) -> bool:
    """Whether the window's report requires a deployment that is not in the ledger.

    A deployment that was deferred to a later window is pending until that window is deployed.
    """
    report = ctx.repository.report(window.key)
    return (
        report is not None
        and outcome_without_append(ctx.chain(), window, report, final=True) is None
    )


def _copy_entries(ctx: ModelContext, chain: Chain) -> None:
    """Copy the valid entries that the store lacks, in order, so that the copies have no gaps."""
    first = len(chain.entries)
    while first and ctx.repository.entry(first - 1) is None:
        first -= 1
    for valid_entry in chain.entries[first:]:
        ctx.repository.commit_entry(valid_entry, *ctx.ledger.identity())


def _find_entry(chain: Chain, value: bytes) -> ValidEntry | None:
    expected_hash = canonical.digest(value)
    return next((valid for valid in reversed(chain.entries) if valid.hash == expected_hash), None)
