"""Conversion of numbers to tensors: numpy arrays and nested lists are accepted wherever tensors are."""

from collections.abc import Sequence
from numbers import Real
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

ArrayLike: TypeAlias = NDArray[np.generic] | Sequence[object] | float
TensorLike: TypeAlias = Tensor | ArrayLike


def as_tensor(name: str, value: TensorLike, dtype: torch.dtype | None = None) -> Tensor:
    """Return a tensor of real numbers made from a tensor, a numpy array or nested lists.

    Args:
        name: name of the argument, for the errors.
        value: the numbers. Tensors stay on their device, and gradients flow through the conversion.
        dtype: the dtype of the result. None keeps the dtype of a tensor and of a numpy array of floating-point numbers
            or booleans, and makes lists of floats float64 and integers from lists and arrays int64.

    Returns:
        The tensor. It may share memory with `value`.

    Raises:
        TypeError: if the value is None, a string, complex, or not made of numbers, or if an integer dtype is wanted and
            the numbers are floating-point. Nested lists of unequal lengths raise a ValueError.

    >>> import numpy as np
    >>> from ranklens.tensors.convert import as_tensor
    >>> as_tensor("x", [[1.0, 2.0]]), as_tensor("x", np.array([1, 2], dtype=np.uint8))
    (tensor([[1., 2.]], dtype=torch.float64), tensor([1, 2]))
    """
    tensor = value if isinstance(value, Tensor) else _from_numbers(name, value)
    if tensor.dtype.is_complex:
        raise TypeError(f"{name} has complex numbers ({tensor.dtype}); pass real numbers")
    if dtype is None:
        return tensor
    if tensor.dtype.is_floating_point and not dtype.is_floating_point:
        raise TypeError(f"{name} has floating-point numbers ({tensor.dtype}); pass integers")
    return tensor.to(dtype)


def as_floating(name: str, value: TensorLike) -> Tensor:
    """Return a floating-point tensor. Integers from lists and numpy arrays become float64; other tensors are refused.

    Args:
        name: name of the argument, for the errors.
        value: the numbers.

    Returns:
        The tensor, of the dtype of `value` if that is a floating-point dtype.

    Raises:
        TypeError: if the value is a tensor of integers or booleans, or if `as_tensor` refuses the value.

    >>> from ranklens.tensors.convert import as_floating
    >>> as_floating("W", [[1, 2]])
    tensor([[1., 2.]], dtype=torch.float64)
    """
    tensor = as_tensor(name, value)
    if tensor.dtype.is_floating_point:
        return tensor
    if isinstance(value, Tensor) or tensor.dtype == torch.bool:
        raise TypeError(f"{name} is {tensor.dtype}; pass floating-point numbers: convert with .double()")
    return tensor.double()


def _from_numbers(name: str, value: ArrayLike) -> Tensor:
    """Return the tensor of a numpy array, of a number, or of nested lists, which may hold tensors.

    Raises:
        TypeError: if the value is none of these.
        ValueError: if nested lists have unequal lengths.
    """
    if isinstance(value, str | bytes) or not (isinstance(value, Sequence | Real) or hasattr(value, "__array__")):
        given = "None" if value is None else f"of type {type(value).__name__}"
        raise TypeError(f"{name} is {given}; pass a tensor, a numpy array or nested lists of numbers")
    if isinstance(value, Sequence) and _has_tensors(value):
        parts = [as_tensor(f"{name}[{k}]", part) for k, part in enumerate(value)]  # type: ignore[arg-type]
        if len({part.shape for part in parts}) > 1:
            raise ValueError(f"{name} has parts of different shapes, {[tuple(part.shape) for part in parts]}")
        return torch.stack(parts)
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise ValueError(f"{name} has rows of unequal lengths; pass nested lists of equal lengths") from error
    return torch.from_numpy(_in_a_dtype_of_torch(name, array))


def _in_a_dtype_of_torch(name: str, array: NDArray[np.generic]) -> NDArray[np.generic]:
    """Return an array that torch can share memory with: copied where its dtype, strides or read-only memory need it.

    Raises:
        TypeError: if the entries are not numbers.
    """
    if array.dtype.kind not in "biufc":
        raise TypeError(f"{name} has entries of dtype {array.dtype}; pass real numbers only")
    if array.dtype.kind in "iu":
        array = array.astype(np.int64, copy=False)
    elif array.dtype.kind == "f" and array.dtype.itemsize > np.dtype(np.float64).itemsize:
        array = array.astype(np.float64)
    elif not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    shareable = array.flags.writeable and all(stride >= 0 for stride in array.strides)
    return array if shareable else array.copy()


def _has_tensors(value: Sequence[object]) -> bool:
    """Return whether there is a tensor anywhere in nested lists."""
    return any(isinstance(x, Tensor) or (isinstance(x, list | tuple) and _has_tensors(x)) for x in value)
