"""A mutation operator that Cosmic Ray lacks: it drops a keyword argument of a call."""

from collections.abc import Iterator

from cosmic_ray.operators.operator import Example, Operator
from parso.tree import BaseNode, NodeOrLeaf

Position = tuple[int, int]


class DropKeyword(Operator):
    """Drops `name=value` from a call, with the adjacent comma."""

    def mutation_positions(self, node: NodeOrLeaf) -> Iterator[tuple[Position, Position]]:
        for keyword in _keywords(node):
            yield keyword.start_pos, keyword.end_pos

    def mutate(self, node: BaseNode, index: int) -> BaseNode:
        position = node.children.index(_keywords(node)[index])
        commas = [i for i in (position - 1, position + 1) if node.children[i : i + 1] == [","]]
        del node.children[min([position, *commas[:1]]) : max([position, *commas[:1]]) + 1]
        return node

    @classmethod
    def examples(cls) -> tuple[Example, ...]:
        return (Example("f(a, b=1)", "f(a)"), Example("f(a=1)", "f()"))


def _keywords(node: NodeOrLeaf) -> list[NodeOrLeaf]:
    if node.type not in ("arglist", "trailer"):
        return []
    return [
        child for child in node.children if child.type == "argument" and child.children[1] == "="
    ]
