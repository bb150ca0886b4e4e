"""A model that may be adopted."""

import pytest

from cycle.adopt.adoption import COMPLETED_WINDOWS, coupon
from cycle.memory_model import make_memory_model, produce
from support.models.harness import run_windows
from tidemill.cycle.context import ModelContext


@pytest.fixture
def ctx() -> ModelContext:
    """A model with four completed windows, and events of five more."""
    model = make_memory_model()
    produce(model, -2, COMPLETED_WINDOWS - 1)
    produce(model, COMPLETED_WINDOWS, COMPLETED_WINDOWS + 4, coupon=coupon)
    run_windows(model, 0, COMPLETED_WINDOWS - 1)
    return model
