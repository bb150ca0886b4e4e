"""What the tests of `adopt` share: a changed field, a changed seed, and the steps at a window."""

from support.models.harness import SPEC, window
from tidemill.adapters.memory import MemoryLog
from tidemill.core.ledger import Entry
from tidemill.core.records import Candidate
from tidemill.core.windows import Window
from tidemill.cycle.context import ModelContext
from tidemill.cycle.operations.adopt import AdoptionResult, adopt

COUPON = {"country": "category", "price": "number", "coupon": "number?"}
"""`visits` is removed, `coupon` is new."""
SEED = SPEC["learner"] | {"seed": 7}
COMPLETED_WINDOWS = 4
"""Windows 0 to 3 are completed under the first lineage; this is the first unplanned window."""


def coupon(index: int) -> float:
    return float(index % 5)


def window_at(ctx: ModelContext, number: int) -> Window:
    return window(ctx.spec, number)


def adopt_at(ctx: ModelContext, number: int = COMPLETED_WINDOWS) -> AdoptionResult:
    return adopt(ctx, window_at(ctx, number), "ada", "the world changed")


def candidate_at(ctx: ModelContext, number: int) -> Candidate:
    return ctx.records.require_candidate(window_at(ctx, number))


def memory_log(ctx: ModelContext) -> MemoryLog:
    assert isinstance(ctx.event_log, MemoryLog)
    return ctx.event_log


def valid_entries(ctx: ModelContext) -> list[Entry]:
    return [valid.entry for valid in ctx.chain().entries]
