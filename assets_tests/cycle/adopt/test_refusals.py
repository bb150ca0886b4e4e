"""What cannot be adopted, or not yet."""

from typing import Any

import pytest

from cycle.adopt.adoption import COMPLETED_WINDOWS, SEED, adopt_at, valid_entries, window_at
from cycle.memory_model import make_memory_model, produce, stored_files, with_changes
from support.models.harness import run_window
from support.models.oracle import assert_verified
from tidemill.core.errors import (
    OperationNotAllowed,
    PredecessorMissing,
)
from tidemill.cycle.context import ModelContext
from tidemill.cycle.planning.plan import plan_window
from tidemill.cycle.steps.evaluate import evaluate
from tidemill.cycle.steps.extract import extract
from tidemill.cycle.steps.update import update

REFUSED: dict[str, tuple[dict[str, Any], int, str]] = {
    "nothing changed": ({"gate": {"min_rows": 60}}, COMPLETED_WINDOWS, "nothing to adopt"),
    "another label": ({"label": "paid"}, COMPLETED_WINDOWS, "`label` differ.*a new name"),
    "another objective": (
        {"objective": "regression"},
        COMPLETED_WINDOWS,
        "`objective` differ.*a new name",
    ),
    "planned already": (
        {"learner": SEED},
        COMPLETED_WINDOWS - 1,
        "planned already.*--from {first} --reason",
    ),
    "too late": (
        {"learner": SEED},
        COMPLETED_WINDOWS + 1,
        "not planned; .*--from {first} --reason",
    ),
}


@pytest.mark.parametrize(("changes", "number", "message"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_adopted_is_refused_and_nothing_is_written(
    ctx: ModelContext, changes: dict[str, Any], number: int, message: str
) -> None:
    ctx = with_changes(ctx, **changes)
    before, entries = stored_files(ctx), valid_entries(ctx)
    with pytest.raises(
        OperationNotAllowed, match=message.format(first=window_at(ctx, COMPLETED_WINDOWS))
    ):
        adopt_at(ctx, number)
    assert (stored_files(ctx), valid_entries(ctx)) == (before, entries)


def test_windows_that_are_planned_must_be_done_first(ctx: ModelContext) -> None:
    plan_window(ctx, window_at(ctx, COMPLETED_WINDOWS + 1))
    other = with_changes(ctx, learner=SEED)
    first, last = (window_at(ctx, COMPLETED_WINDOWS + number) for number in (0, 1))
    with pytest.raises(OperationNotAllowed, match=f"{first} to {last} .*tidemill backfill m"):
        adopt_at(other, COMPLETED_WINDOWS + 2)
    run_window(ctx, COMPLETED_WINDOWS)
    for step in (extract, update, evaluate):
        step(ctx, window_at(ctx, COMPLETED_WINDOWS + 1))
    if ctx.repository.report(window_at(ctx, COMPLETED_WINDOWS + 1).key).verdict == "promote":  # type: ignore[union-attr]
        with pytest.raises(
            OperationNotAllowed, match=f"Windows {window_at(ctx, COMPLETED_WINDOWS + 1)} to"
        ):
            adopt_at(other, COMPLETED_WINDOWS + 2)
    run_window(ctx, COMPLETED_WINDOWS + 1)
    adopt_at(other, COMPLETED_WINDOWS + 2)
    run_window(other, COMPLETED_WINDOWS + 2)
    assert_verified(other)


def test_adoption_without_an_initial_model_is_refused() -> None:
    model = make_memory_model()
    produce(model, -2, 2)
    with pytest.raises(PredecessorMissing, match="no initial model"):
        adopt_at(model, 0)
