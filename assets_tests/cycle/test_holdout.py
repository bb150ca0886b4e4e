"""The holdout fit is the candidate without the tail; nothing of the tail influences it."""

import json

import pytest

from cycle.memory_model import make_memory_context
from support.models.harness import SPEC, START, events, window
from tidemill.adapters.memory import MemoryLog
from tidemill.core.records import Candidate
from tidemill.core.spec import ModelSpec
from tidemill.cycle.context import ModelContext
from tidemill.cycle.steps.extract import extract
from tidemill.cycle.steps.initial import train
from tidemill.cycle.steps.update import update

ROWS = 200
TAIL = 40
"""The last fifth of a window's rows."""


def learn_window(number: int, changed: range) -> tuple[ModelContext, Candidate]:
    """The candidate of a window in which the labels of the `changed` rows are inverted."""
    log = MemoryLog()
    log.create_topic("tides", 1)
    ctx = make_memory_context(ModelSpec.create("m", {"topic": "tides", **SPEC}), log, lambda: START)
    for index in range(-2, number + 2):
        for row, (timestamp, value) in enumerate(events(index, ROWS)):
            event = json.loads(value)
            event["bought"] ^= index == number and row in changed
            log.append("tides", 0, json.dumps(event).encode(), timestamp)
    train(ctx)
    for index in range(number + 1):
        extract(ctx, window(ctx.spec, index))
        candidate = update(ctx, window(ctx.spec, index))
    return ctx, candidate


@pytest.mark.parametrize(("number", "kind"), [(0, "continue"), (2, "retrain")])
def test_the_holdout_fit_is_the_same_whatever_the_tail_says(number: int, kind: str) -> None:
    trees = []
    for changed in (range(0), range(ROWS - TAIL, ROWS), range(ROWS - TAIL - 40, ROWS - TAIL)):
        ctx, candidate = learn_window(number, changed)
        assert candidate.kind == kind
        assert candidate.tail_rows == TAIL
        assert candidate.holdout is not None
        trees.append((ctx.load(candidate.holdout).tree_digest, candidate.tree_digest))
    plain, other_tail, other_head = trees
    assert other_tail[0] == plain[0]
    assert other_tail[1] != plain[1]
    assert other_head[0] != plain[0]
