import math

import numpy as np
import pytest
import torch

from ranklens.tensors import arguments


def plain(function):
    """Return a function without the wrappers of the type checker, which would refuse wrong values first."""
    while hasattr(function, "__wrapped__"):
        function = function.__wrapped__
    return function


@pytest.mark.parametrize(
    "value", [1, np.int64(1), torch.tensor(1), np.array(1)], ids=["int", "numpy", "torch", "array"]
)
def test_counts_of_every_kind(value):
    found = arguments.count("n", value)
    assert found == 1
    assert type(found) is int


@pytest.mark.parametrize("value", [math.nan, 2.0, "3", True, None, 1j, [1], np.array([1]), torch.ones(())], ids=str)
def test_what_is_no_count(value):
    with pytest.raises(TypeError, match=r"^n is .*; it must be an integer$"):
        arguments.count("n", value)


@pytest.mark.parametrize(
    ("value", "least", "told"), [(0, 1, "at least 1"), (-1, 0, "at least 0"), (2**41, 1, "at most")]
)
def test_counts_outside_their_range(value, least, told):
    with pytest.raises(ValueError, match=f"^n is .*; it must be {told}"):
        arguments.count("n", value, least)


@pytest.mark.parametrize(
    "value", [2, 2.0, np.float32(2), torch.tensor(2.0), np.array(2)], ids=["int", "float", "numpy", "torch", "array"]
)
def test_numbers_of_every_kind(value):
    found = arguments.number("x", value, least=2, most=2)
    assert found == 2.0
    assert type(found) is float


@pytest.mark.parametrize("value", [None, "2", True, 1j, [2.0], torch.ones(1), {}], ids=str)
def test_what_is_no_number(value):
    with pytest.raises(TypeError, match=r"^x is .*; it must be a number$"):
        arguments.number("x", value)


@pytest.mark.parametrize(
    ("value", "bounds", "told"),
    [
        (math.nan, {"finite": False}, "a number"),
        (math.inf, {}, "a finite number"),
        (10**400, {}, "a finite number"),
        (0, {"above": 0}, "a finite number above 0"),
        (-1, {"least": 0}, "a finite number at least 0"),
        (2, {"above": 0, "most": 1}, "a finite number above 0 and at most 1"),
        (-math.inf, {"above": 0, "finite": False}, "a number above 0"),
    ],
)
def test_numbers_outside_their_range(value, bounds, told):
    with pytest.raises(ValueError, match=f"^x is .*; it must be {told}$"):
        arguments.number("x", value, **bounds)


def test_infinity_where_it_is_allowed():
    assert arguments.number("x", math.inf, finite=False) == math.inf
    assert arguments.number("x", -math.inf, finite=False) == -math.inf


def test_lists():
    assert arguments.sequence("shape", (1, 2)) == (1, 2)
    assert arguments.sequence("shape", (k for k in range(2))) == [0, 1]
    for value in ("12", 3, None):
        with pytest.raises(TypeError, match=r"^shape is .*; it must be a list or a tuple$"):
            plain(arguments.sequence)("shape", value)
    with pytest.raises(TypeError, match=r"^widths is \[1\]; it must be a dictionary$"):
        plain(arguments.mapping)("widths", [1])
    with pytest.raises(TypeError, match=r"^tree is 3; it must be a dict$"):
        arguments.instance("tree", 3, dict)


def test_dtypes_and_devices():
    assert arguments.floating_dtype("dtype", torch.float32) == torch.float32
    assert arguments.device("device", None) is None
    assert arguments.device("device", "cpu") == torch.device("cpu")
    for value in (torch.int64, "float64", None):
        with pytest.raises(TypeError, match=r"^dtype is .*; it must be a floating-point dtype"):
            arguments.floating_dtype("dtype", value)
    with pytest.raises(TypeError, match=r"^device is 3; it must be a device"):
        plain(arguments.device)("device", 3)
    with pytest.raises(ValueError, match=r"^device is 'gpu'; it must be a device"):
        arguments.device("device", "gpu")
    missing = f"cuda:{torch.cuda.device_count()}"
    for value in (missing, torch.device(missing)):
        with pytest.raises(ValueError, match=rf"^device is '{missing}', which cannot be used here"):
            arguments.device("device", value)


def test_long_values_are_told_by_their_type():
    assert arguments.told(list(range(1000))) == "of type list"
    assert arguments.told(np.ones((2, 3))) == "an array of shape (2, 3) and dtype float64"
