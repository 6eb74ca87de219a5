import math
import os
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, TypeVar

import numpy as np
import pandas as pd
import pytest
import torch
from jaxtyping import Float, jaxtyped
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from ranklens.tensors.annotations import check_attributes, checked, checked_class, kind_of

M = TypeVar("M", bound=nn.Module)
Free = TypeVar("Free")


class Unseen(Protocol):
    """A protocol that `isinstance` cannot tell."""

    def run(self) -> None:
        """Do nothing."""


# Annotations, each with its words, values that it allows, and values that it does not.
KINDS = [
    (
        int,
        "an integer",
        [1, -1, np.int8(1), torch.tensor(1), np.array(1)],
        [1.0, "1", True, None, 2**63, np.ones(1, int)],
    ),
    (float, "a number", [1, 1.5, math.inf, np.float32(1), torch.tensor(1.0)], [math.nan, "1", True, 1j, torch.ones(1)]),
    (bool, "True or False", [True, np.bool_(False)], [0, "yes", None, torch.ones(2)]),
    (str, "a text", ["a"], [1, b"a", Path("a")]),
    (int | None, "an integer or None", [1, None], [1.5]),
    (Literal["a", "b"], "one of 'a', 'b'", ["a"], ["c", 1, [], pd.DataFrame()]),
    (str | os.PathLike[str], "a text or a path", ["a", Path("a")], [1, True, None]),
    (Tensor, "a tensor", [torch.ones(1), nn.Parameter(torch.ones(1))], [[1.0], np.ones(1), 1]),
    (
        Float[Tensor, "n 2"],
        "a floating-point tensor of shape (n, 2)",
        [torch.ones(3, 2)],
        [torch.ones(2), torch.ones(3, 2).int()],
    ),
    (NDArray[np.bool_], "an array of bool", [np.ones(2, bool)], [np.ones(2), [True]]),
    (
        Sequence[int],
        "a list of integers",
        [[1], (), range(2), np.ones(2, int), torch.ones(2), pd.Series([1])],
        [1, "12", [1.5], {}, {1}, np.array(["a"]), torch.ones(()), pd.DataFrame({"a": [1]})],
    ),
    (Collection[int], "a list of integers", [{1}, [1], range(2)], ["12", {"a"}, iter([1]), {}]),
    (Sequence[str], "a list of texts", [["a"], pd.Index(["a"])], ["a", [1], torch.ones(2)]),
    (tuple[float, float], "a list of 2 numbers", [(1.0, 2), [1, 2], np.ones(2)], [(1.0,), 1.0, (1.0, "2"), np.ones(3)]),
    (tuple[int, ...], "a list of integers", [(), (1, 2)], [("a",)]),
    (Sequence[Sequence[int]], "a list of lists of integers", [[[1], (2,)]], [[1], [["a"]]]),
    (Iterable[Tensor], "a list of tensors", [[torch.ones(1)], iter([1])], [torch.ones(1), [1], 1, {}]),
    (Mapping[str, int], "a dictionary", [{}, {"a": "unchecked"}], [[], 1]),
    (Callable[[int], int], "a function", [abs, nn.ReLU()], [1, "abs"]),
    (nn.Module, "a Module", [nn.ReLU()], [nn.ReLU, None]),
    (type[nn.Module], "a subclass of Module", [nn.ReLU], [nn.ReLU(), int]),
    (M, "a Module", [nn.ReLU()], [1]),
    (
        str | Sequence[str] | Callable[[str], bool] | None,
        "a text, a list of texts, a function or None",
        ["a", ["a"], len, None],
        [1, [1]],
    ),
]


@pytest.mark.parametrize(
    ("hint", "words", "allowed", "refused"), KINDS, ids=lambda part: part if isinstance(part, str) else ""
)
def test_what_annotations_allow(hint, words, allowed, refused):
    kind = kind_of(hint)
    assert kind.words == words
    assert [value for value in allowed if not kind.allows(value)] == []
    assert [value for value in refused if kind.allows(value)] == []


@pytest.mark.parametrize("hint", [object, Hashable, ArrayLike, ArrayLike | None, Free, Unseen], ids=str)
def test_what_cannot_be_told_is_allowed(hint):
    assert kind_of(hint).allows(3)


def test_all_arguments_are_checked_however_they_are_passed():
    @checked
    def sizes(first: int, *others: int, last: float = 1.0) -> int:
        return first

    assert sizes(1, 2, 3, last=2) == 1
    for given, name in [(("a",), "first"), ((1, 2, "a"), "others")]:
        with pytest.raises(TypeError, match=f"^{name} is 'a'; it must be an integer$"):
            sizes(*given)
    with pytest.raises(TypeError, match=r"^first is None; it must be an integer$"):
        sizes(first=None)
    with pytest.raises(ValueError, match=r"^last is nan; it must be a number$"):
        sizes(1, last=math.nan)
    with pytest.raises(TypeError, match="unexpected keyword argument 'more'"):
        sizes(1, more=1)


def test_methods_and_classes():
    @checked_class
    @dataclass(frozen=True)
    class Pen:
        width: float
        name: str = ""

        @checked
        def thicker(self, by: float) -> "Pen":
            return Pen(self.width + by)

    assert Pen(1.0).thicker(0.5) == Pen(1.5)
    with pytest.raises(TypeError, match="by is 'a'; it must be a number"):
        Pen(1.0).thicker("a")
    with pytest.raises(TypeError, match="name is 3; it must be a text"):
        Pen(1.0, 3)


def test_attributes_are_checked_later():
    class Estimator:
        def __init__(self, depth: int = 2) -> None:
            self.depth = depth

    check_attributes(Estimator(3))
    with pytest.raises(TypeError, match="depth is 'deep'; it must be an integer"):
        check_attributes(Estimator("deep"))


def test_sizes_are_those_of_one_call():
    """Sizes of the same name in a function that calls are other sizes."""

    @checked
    def inner(x: Float[Tensor, "n"]) -> Tensor:
        return x

    @jaxtyped(typechecker=None)
    def outer(x: Float[Tensor, "n"]) -> Tensor:
        assert isinstance(x, Float[Tensor, "n"])
        return inner(torch.ones(7))

    assert len(outer(torch.ones(3))) == 7
