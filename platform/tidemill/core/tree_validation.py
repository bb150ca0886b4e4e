"""Validation of a booster's trees: every walk through a tree must end at a leaf."""

from typing import TYPE_CHECKING

from tidemill.core.errors import BUNDLE_REMEDY, BundleInvalid

if TYPE_CHECKING:
    import lightgbm


def check_trees(booster: "lightgbm.Booster") -> None:
    """Check that each leaf, and each node except the root, is the child of exactly one node, and
    that each split uses an existing feature. Then every walk ends at a leaf, for any row.

    Raises `BundleInvalid`.
    """
    blocks = booster.model_to_string().split("\nTree=")[1:]
    for index, block in enumerate(blocks):
        tree = dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
        leaves = int(tree["num_leaves"])
        children = _numbers(tree, "left_child") + _numbers(tree, "right_child")
        # Nodes are numbered from 0, the root; leaves are numbered -1, -2, and so on.
        expected = [*range(-leaves, 0), *range(1, leaves - 1)] if leaves > 1 else []
        split_features = _numbers(tree, "split_feature")
        if sorted(children) != expected or not all(
            0 <= feature < booster.num_feature() for feature in split_features
        ):
            raise BundleInvalid(
                f"Tree {index} of a bundle is malformed: a node is unreachable or has two parents, "
                "or a split has no feature.",
                BUNDLE_REMEDY,
            )


def _numbers(tree: dict[str, str], name: str) -> list[int]:
    return [int(number) for number in tree.get(name, "").split()]
