"""Adoption while another process adopts, or plans the window."""

from dataclasses import dataclass, replace
from typing import Any

import pytest

from cycle.adopt.adoption import (
    COMPLETED_WINDOWS,
    COUPON,
    SEED,
    adopt_at,
    candidate_at,
    valid_entries,
    window_at,
)
from cycle.memory_model import with_changes
from support.models.harness import run_window
from support.models.oracle import assert_verified
from tidemill.adapters.memory import MemoryLedger
from tidemill.core.errors import (
    OperationNotAllowed,
)
from tidemill.cycle.context import ModelContext
from tidemill.cycle.operations.adopt import adopt
from tidemill.cycle.planning.plan import plan_window


@dataclass
class InterposedLedger:
    """A ledger that calls a function right before the first append."""

    real: MemoryLedger
    before_append: Any

    def identity(self) -> tuple[str, str]:
        return self.real.identity()

    def read(self) -> Any:
        return self.real.read()

    def append(self, model: str, value: bytes) -> int:
        before_append, self.before_append = self.before_append, lambda: None
        before_append()
        return self.real.append(model, value)


def with_interposed_append(ctx: ModelContext, before_append: Any) -> ModelContext:
    assert isinstance(ctx.ledger, MemoryLedger)
    return replace(ctx, ledger=InterposedLedger(ctx.ledger, before_append))


def test_concurrent_equal_adoptions_both_report_the_first_writer(ctx: ModelContext) -> None:
    other = with_changes(ctx, learner=SEED)
    mine = with_interposed_append(
        other, lambda: adopt(other, window_at(other, COMPLETED_WINDOWS), "bob", "me first")
    )
    done = adopt_at(mine)
    assert (done.number, done.actor, done.reason) == (1, "bob", "me first")
    assert [entry.kind for entry in valid_entries(other)].count("adopt") == 1
    run_window(other, COMPLETED_WINDOWS)
    assert_verified(other)


def test_one_of_two_concurrent_different_adoptions_is_refused(ctx: ModelContext) -> None:
    theirs, mine = with_changes(ctx, fields=COUPON), with_changes(ctx, learner=SEED)
    with pytest.raises(OperationNotAllowed, match="Another process adopted"):
        adopt_at(with_interposed_append(mine, lambda: adopt_at(theirs)))
    run_window(theirs, COMPLETED_WINDOWS)
    assert candidate_at(theirs, COMPLETED_WINDOWS).kind == "retrain"
    assert_verified(theirs)


def test_an_adoption_after_the_plan_of_its_window_never_takes_effect(ctx: ModelContext) -> None:
    late = with_changes(ctx, learner=SEED)
    with pytest.raises(OperationNotAllowed, match=r"planned .* at the same time"):
        adopt_at(
            with_interposed_append(
                late, lambda: plan_window(ctx, window_at(ctx, COMPLETED_WINDOWS))
            )
        )
    run_window(ctx, COMPLETED_WINDOWS)
    assert ctx.records.lineage_id(window_at(ctx, COMPLETED_WINDOWS)) == ctx.records.lineage_id(
        window_at(ctx, 0)
    )
    adopt_at(late, COMPLETED_WINDOWS + 1)
    run_window(late, COMPLETED_WINDOWS + 1)
    assert plan_window(late, window_at(late, COMPLETED_WINDOWS + 1)).adoption == 2
    assert_verified(late)
