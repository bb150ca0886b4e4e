"""Trees are validated as a whole, also where no known row goes."""

import re

import lightgbm
import numpy as np
import pytest

from tidemill.core.errors import BundleInvalid
from tidemill.core.lightgbm_import import load_booster
from tidemill.core.tree_validation import check_trees


@pytest.fixture(scope="module")
def model_text() -> str:
    """Three trees over two features."""
    rows = np.random.default_rng(0).normal(size=(400, 2))
    params = {"objective": "binary", "num_leaves": 5, "verbose": -1, "num_threads": 1}
    data = lightgbm.Dataset(rows, (rows[:, 0] > 0.2).astype(float))
    return str(lightgbm.train(params, data, 3).model_to_string())


def with_last_tree_line(text: str, name: str, values: str) -> str:
    """The text with this line in its last tree, and without sizes that would no longer match."""
    before, _, last = text.rpartition("Tree=")
    last, changes = re.subn(rf"(?m)^{name}=.*$", f"{name}={values}", last, count=1)
    assert changes
    return re.sub(r"tree_sizes=.*\n", "", f"{before}Tree={last}")


def test_trees_of_lightgbm_are_valid(model_text: str) -> None:
    check_trees(load_booster(model_text))


def test_a_tree_of_one_leaf_is_valid() -> None:
    data = lightgbm.Dataset(np.zeros((30, 2)), np.arange(30.0) % 2)
    check_trees(lightgbm.train({"objective": "binary", "verbose": -1}, data, 1))


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("0 -1 -2 -3", "1 2 3 -5"),  # the root below itself
        ("1 2 3 -1", "-2 -3 -4 1"),  # back to a node above
        ("1 2 3 3", "-2 -3 -4 -5"),  # a node below itself
        ("1 1 3 -1", "2 -3 -4 -5"),  # a node with two parents
    ],
)
def test_a_tree_with_a_cycle_is_refused(model_text: str, left: str, right: str) -> None:
    malformed = with_last_tree_line(
        with_last_tree_line(model_text, "left_child", left), "right_child", right
    )
    with pytest.raises(BundleInvalid, match="Tree 2 of a bundle is malformed"):
        check_trees(load_booster(malformed))
