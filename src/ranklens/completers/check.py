"""Arguments of the completers, checked when they are fitted, as scikit-learn has it."""

import math
from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray


def seed_of(random_state: Any) -> int:
    """An integer of any kind; nothing is unseeded."""
    if isinstance(random_state, bool) or not isinstance(random_state, Integral):
        raise TypeError(
            f"random_state is {random_state!r}, a {type(random_state).__name__}; pass an integer, so that the fit can "
            f"be repeated"
        )
    return int(random_state)


def check_arguments(completer: Any, *, least_depth: int | None = None) -> int:
    """Refuse arguments that make no sense; returns the seed."""
    counts = {"max_steps": 1, "batch_size": 1, "width": 1}
    if least_depth is not None:
        counts["depth"] = least_depth
    for name, least in counts.items():
        value = getattr(completer, name)
        if value is None and name in ("batch_size", "width"):
            continue
        if isinstance(value, bool) or not isinstance(value, Integral):
            raise TypeError(f"{name} is {value!r}; it must be an integer")
        if value < least:
            raise ValueError(f"{name} is {value}; it must be at least {least}")
    for name in ("learning_rate", "patience", "scale", "held_out"):
        value = getattr(completer, name)
        if value is None and name == "scale":
            continue
        if isinstance(value, bool) or not isinstance(value, Real):
            raise TypeError(f"{name} is {value!r}; it must be a number")
        if not (math.isfinite(value) and float(value) > 0):
            raise ValueError(f"{name} is {value}; it must be positive and finite")
    if completer.held_out >= 1:
        raise ValueError(f"held_out is {completer.held_out}; it is a fraction of what is seen, below 1, such as 0.1")
    return seed_of(completer.random_state)


def check_pairs(indices: Any, shape: Sequence[int]) -> NDArray[np.int64]:
    """(m, N) integer positions within a shape; frames count by their values."""
    array = indices.to_numpy() if isinstance(indices, pd.DataFrame) else np.asarray(indices)
    if array.dtype.kind not in "iu":
        raise TypeError(f"indices are {array.dtype}; positions are integers: convert with .astype(int)")
    if array.ndim != 2 or array.shape[1] != len(shape):
        raise ValueError(f"indices have shape {array.shape}; pass (m, {len(shape)}), one row per entry")
    wrong = (array < 0) | (array >= np.asarray(shape))
    if wrong.any():
        row, mode = np.argwhere(wrong)[0]
        raise ValueError(
            f"index {array[row, mode]} in row {row} is outside mode {mode} of size {shape[mode]}; "
            f"indices run from 0 to {shape[mode] - 1}"
        )
    return array.astype(np.int64)
