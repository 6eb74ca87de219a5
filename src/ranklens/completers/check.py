"""Checks of the arguments of completers; they are made by `fit`, as in all estimators of scikit-learn."""

import os
from collections.abc import Sequence
from numbers import Integral
from typing import Protocol, runtime_checkable

import numpy as np
import pandas as pd
import torch
from jaxtyping import Int
from numpy.typing import ArrayLike
from torch import Tensor

from ranklens.completers.foreign import check_labelled
from ranklens.completers.prepared import HeldOut
from ranklens.tensors import arguments
from ranklens.tensors.annotations import check_attributes
from ranklens.tensors.checks import check_indices


@runtime_checkable
class Completer(Protocol):
    """Arguments of `MatrixCompleter` and `TensorCompleter` that both have, as attributes of the same names.

    The two classes say what each argument means.
    """

    scale: float | None
    width: int | None
    biases: bool | None
    held_out: HeldOut
    max_steps: int
    learning_rate: float
    patience: float
    batch_size: int | None
    device: torch.device | str | None
    posterior: int | None
    random_state: object


def seed_of(random_state: object) -> int:
    """Return the seed `random_state` as a Python int.

    Args:
        random_state: an integer of any type, such as numpy's; a RandomState or Generator of numpy, from which the seed
            is drawn; or None, for a seed that differs between fits.

    Raises:
        TypeError: if it is anything else, True and False included.
    """
    if random_state is None:
        return int.from_bytes(os.urandom(4), "big")
    if isinstance(random_state, Integral) and not isinstance(random_state, bool):
        return int(random_state)
    for name in ("randint", "integers"):  # of a RandomState, and of a Generator
        if hasattr(random_state, name):
            return int(getattr(random_state, name)(2**31 - 1))
    raise TypeError(
        f"random_state is {random_state!r}, a {type(random_state).__name__}; pass an integer, so that the fit can be "
        f"repeated"
    )


def check_arguments(completer: Completer, *, least_depth: int | None = None) -> int:
    """Return the seed of a completer after checking its arguments.

    An argument of a wrong type is a TypeError.

    Args:
        completer: the completer.
        least_depth: the smallest depth allowed; None for a completer without a depth.

    Raises:
        ValueError: for a number outside its range.
    """
    arguments.count("max_steps", completer.max_steps, 1)
    for name in ("batch_size", "width"):
        if getattr(completer, name) is not None:
            arguments.count(name, getattr(completer, name), 1)
    if completer.posterior is not None:
        arguments.count("posterior", completer.posterior, 0)
    if least_depth is not None:
        arguments.count("depth", getattr(completer, "depth", None), least_depth)
    for name in ("learning_rate", "patience"):
        arguments.number(name, getattr(completer, name), above=0)
    if completer.scale is not None:
        arguments.number("scale", completer.scale, above=0)
    arguments.device("device", completer.device)
    _check_held_out(completer.held_out)
    for name in ("row_features", "column_features"):
        check_labelled(getattr(completer, name, None), name)
    check_attributes(completer)
    for column, frame in (getattr(completer, "features", None) or {}).items():
        check_labelled(frame, f"features[{column!r}]")
    return seed_of(completer.random_state)


def _check_held_out(held_out: object) -> None:
    """Refuse anything but a fraction, "entries", "blocks" or a function.

    Raises:
        ValueError: for another word, or a number that is no fraction.
    """
    if isinstance(held_out, str):
        if held_out not in ("entries", "blocks"):
            raise ValueError(
                f"held_out is {held_out!r}; pass 'entries', 'blocks', a fraction such as 0.1, or a function"
            )
    elif not callable(held_out) and arguments.number("held_out", held_out, above=0) >= 1:
        raise ValueError(
            f"held_out is {held_out}; it is a fraction of the observed entries: pass a number below 1, such as 0.1"
        )


def check_positions(indices: ArrayLike | pd.DataFrame, shape: Sequence[int]) -> Int[Tensor, "m order"]:
    """Return positions in a tensor as an int64 tensor of shape (m, N), after checking that they lie within a shape.

    Args:
        indices: (m, N) integers, or a frame with one column per mode.
        shape: sizes of the N modes.

    Raises:
        TypeError: for indices that are not integers.
    """
    array = indices.to_numpy() if isinstance(indices, pd.DataFrame) else np.asarray(indices)
    if array.dtype.kind not in "iu":
        raise TypeError(f"indices are {array.dtype}; positions are integers: convert with .astype(int)")
    return check_indices(torch.from_numpy(array.astype(np.int64)), shape)
