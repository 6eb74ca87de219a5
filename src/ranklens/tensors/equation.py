"""Einsum strings: read into labels, and written from labels."""

import string
from collections.abc import Sequence

from ranklens.tensors.layout import Label
from ranklens.tensors.paths import symbols


def parse(equation: str) -> tuple[list[tuple[str, ...]], tuple[str, ...]]:
    """Return the labels of every node and of the end tensor, from an einsum such as ``"ar,br->ab"``.

    Args:
        equation: one letter per index. Spaces are ignored.

    Returns:
        A list with one tuple of labels per node, and the tuple of the labels of the end tensor.

    Raises:
        ValueError: if there is not exactly one ``->``, or an index is not a letter.

    >>> parse("ar,br->ab")
    ([('a', 'r'), ('b', 'r')], ('a', 'b'))
    """
    if equation.count("->") != 1:
        raise ValueError(f"equation {equation!r} needs exactly one '->', as in 'ar,br->ab'")
    left, right = equation.replace(" ", "").split("->")
    strange = sorted(set(left + right) - set(string.ascii_letters) - {","})
    if strange:
        raise ValueError(
            f"equation {equation!r} has {strange[0]!r}; use letters, or pass the labels as a pair of lists"
        )
    return [tuple(node) for node in left.split(",")], tuple(right)


def write(nodes: Sequence[Sequence[Label]], out: Sequence[Label]) -> str:
    """Return the einsum string of labels. Single letters stay; every other label becomes the first letter not yet used.

    Args:
        nodes: the labels of every node.
        out: the labels of the end tensor.

    >>> write([(0, "r"), (1, "r")], (0, 1))
    'ar,br->ab'
    """
    labels = list(dict.fromkeys([*out, *(label for node in nodes for label in node)]))
    kept = {x: x for x in labels if isinstance(x, str) and len(x) == 1 and x in string.ascii_letters}
    free = (symbol for symbol in symbols() if symbol not in kept)
    names = {label: kept[label] if label in kept else next(free) for label in labels}
    return ",".join("".join(names[x] for x in node) for node in nodes) + "->" + "".join(names[x] for x in out)
