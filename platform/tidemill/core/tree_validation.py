"""The shape of a booster's trees: that every walk through one comes to a leaf."""

from typing import TYPE_CHECKING

from tidemill.core.errors import BundleInvalid

if TYPE_CHECKING:
    import lightgbm

_REMEDY = "Keep the model in service, and make the bundle again by `tidemill verify --recompute`."


def check_trees(booster: "lightgbm.Booster") -> None:
    """Each node but the root, and each leaf, is the child of one node, and each split looks at a
    feature that there is: also where no known row comes, a walk ends at a leaf.

    Raises `BundleUnfit`.
    """
    blocks = booster.model_to_string().split("\nTree=")[1:]
    for index, block in enumerate(blocks):
        tree = dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
        leaves = int(tree["num_leaves"])
        children = _numbers(tree, "left_child") + _numbers(tree, "right_child")
        # Nodes count from 0, which is the root; a leaf is told as -1 and downwards.
        expected = [*range(-leaves, 0), *range(1, leaves - 1)] if leaves > 1 else []
        split_features = _numbers(tree, "split_feature")
        if sorted(children) != expected or not all(
            0 <= feature < booster.num_feature() for feature in split_features
        ):
            raise BundleInvalid(f"Tree {index} of a bundle is no tree.", _REMEDY)


def _numbers(tree: dict[str, str], name: str) -> list[int]:
    return [int(number) for number in tree.get(name, "").split()]
