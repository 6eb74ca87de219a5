"""Numbers of every accepted kind become the same tensor; everything else is refused by the name of the argument."""

import numpy as np
import pytest
import torch

from ranklens.tensors.convert import as_floating, as_tensor

ROWS = [[1.0, 2.0], [3.0, 4.0]]


@pytest.mark.parametrize(
    "value",
    [
        ROWS,
        tuple(map(tuple, ROWS)),
        np.array(ROWS),
        np.array(ROWS).T.copy().T,
        np.array(ROWS)[::-1][::-1],
        np.array(ROWS, dtype=">f8"),
        np.array(ROWS, dtype=np.longdouble),
        [np.array(row) for row in ROWS],
        [torch.tensor(row, dtype=torch.float64) for row in ROWS],
        torch.tensor(ROWS, dtype=torch.float64),
    ],
)
def test_the_same_numbers_give_the_same_tensor(value):
    found = as_tensor("x", value)
    assert found.dtype == torch.float64
    assert found.tolist() == ROWS


@pytest.mark.parametrize(
    ("value", "dtype"),
    [
        ([1, 2], torch.int64),
        (range(2), torch.int64),
        (np.array([1, 2], dtype=np.uint8), torch.int64),
        (np.array([1, 2], dtype=np.float32), torch.float32),
        ([True, False], torch.bool),
        (torch.ones(2, dtype=torch.int16), torch.int16),
        ([1, 2.5], torch.float64),
    ],
)
def test_dtypes(value, dtype):
    assert as_tensor("x", value).dtype == dtype
    assert as_tensor("x", value, torch.float64).dtype == torch.float64


def test_read_only_and_reversed_arrays_are_copied():
    fixed = np.broadcast_to(np.ones(1), (3,))
    as_tensor("x", fixed).fill_(2.0)
    assert fixed.tolist() == [1, 1, 1]
    assert as_tensor("x", np.arange(3)[::-1]).tolist() == [2, 1, 0]


def test_gradients_flow_through_lists_of_tensors():
    x = torch.tensor(2.0, requires_grad=True)
    as_tensor("x", [[x, 1.0], [3.0, x]], torch.float64).sum().backward()
    assert x.grad == 2


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (["a", "b"], "values has entries of dtype <U1"),
        ([None, 1.0], "values has entries of dtype object"),
        (np.array([1j]), "values has complex numbers"),
        (torch.ones(1) * 1j, "values has complex numbers"),
        ("text", "values is of type str"),
        ([torch.ones(1), "a"], r"values\[1\] is of type str"),
    ],
)
def test_what_is_no_number_is_refused_by_name(value, message):
    with pytest.raises(TypeError, match=message):
        as_tensor("values", value)


def test_lists_of_unequal_lengths_are_refused():
    with pytest.raises(ValueError, match="values has rows of unequal lengths"):
        as_tensor("values", [[1], [1, 2]])
    with pytest.raises(ValueError, match=r"values has parts of different shapes, \[\(1,\), \(2,\)\]"):
        as_tensor("values", [torch.ones(1), torch.ones(2)])


def test_integers_are_wanted_or_made_floating():
    with pytest.raises(TypeError, match="indices has floating-point numbers"):
        as_tensor("indices", [0.5], torch.int64)
    assert as_floating("W", [1, 2]).dtype == torch.float64
    assert as_floating("W", np.array([1, 2])).dtype == torch.float64
    for refused in (torch.tensor([1, 2]), [True], torch.tensor([True])):
        with pytest.raises(TypeError, match=r"W is torch\.(int64|bool); pass floating-point numbers"):
            as_floating("W", refused)
