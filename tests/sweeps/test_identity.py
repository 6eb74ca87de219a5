"""The identity of a function changes with all that the function sees, and with nothing else."""

import functools
import textwrap

import numpy as np
import pytest
import torch

import ranklens as rl
from ranklens.sweeps.identity import digest, digest_of_function


def module(text, name="theirs"):
    """The globals of a module with this source, whose functions have no source text to read."""
    space = {"__name__": name}
    exec(compile(textwrap.dedent(text), f"<{name}>", "exec"), space)
    return space


def identity(text, function="f"):
    return digest_of_function(module(text)[function])


BASE = """
    SIZE = 3
    def helper(x):
        return x + SIZE
    def f(x, y=2):
        return helper(x) * y
"""


def test_equal_code_has_equal_identity():
    assert identity(BASE) == identity(BASE)


@pytest.mark.parametrize(
    ("old", "new"),
    [("* y", "+ y"), ("x + SIZE", "x - SIZE"), ("SIZE = 3", "SIZE = 4"), ("helper(x) *", "helper(2 * x) *")],
    ids=["own code", "code of a helper", "global of a helper", "constant"],
)
def test_changes_of_what_is_called_change_the_identity(old, new):
    assert identity(BASE) != identity(BASE.replace(old, new))


def test_what_is_not_used_does_not_count():
    assert identity(BASE) == identity(BASE + "\n    OTHER = 5\n")


def closure(value):
    def f(x):
        return x, value

    return f


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (1, 2),
        (1, 1.0),
        (torch.zeros(2), torch.ones(2)),
        (torch.zeros(2), torch.zeros(2, dtype=torch.float64)),
        (np.arange(3), np.arange(4)),
        ({"a": 1}, {"a": 2}),
        ((1, 2), [1, 2]),
        ("ab", "a"),
    ],
    ids=str,
)
def test_values_of_the_surroundings_count(one, other):
    assert digest_of_function(closure(one)) == digest_of_function(closure(one))
    assert digest_of_function(closure(one)) != digest_of_function(closure(other))


def test_problems_and_networks_count_by_their_content():
    def task(seed):
        return rl.Completion.sample(rl.targets.low_rank_matrix((4, 4), rank=1, seed=seed), observed=8, seed=seed)

    assert digest(task(0)) == digest(task(0)) != digest(task(1))
    assert digest(rl.cp((2, 2, 2), rank=1)) == digest(rl.cp((2, 2, 2), rank=1)) != digest(rl.cp((2, 2, 2), rank=2))


def test_lambdas_of_one_line_differ():
    one, two = (lambda x: x + 1), (lambda x: x + 2)
    assert digest_of_function(one) != digest_of_function(two)


def test_partials_and_methods():
    class Scale:
        def __init__(self, by):
            self.by = by

        def times(self, x):
            return x * self.by

    assert digest_of_function(Scale(2).times) == digest_of_function(Scale(2).times)
    assert digest_of_function(Scale(2).times) != digest_of_function(Scale(3).times)
    assert digest_of_function(functools.partial(max, 1)) != digest_of_function(functools.partial(max, 2))


def test_objects_inside_themselves_have_a_digest():
    loop = []
    loop.append(loop)
    assert digest(loop) == digest(loop)


def test_content_that_cannot_be_read_is_refused_by_name():
    with pytest.raises(TypeError, match="uses 'value' of the function around it, and the content of a Generator"):
        digest_of_function(closure(torch.Generator()))
