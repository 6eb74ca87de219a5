"""What a model says of every sample: logits, in whatever they are wrapped."""

from typing import Any

import torch
from torch import Tensor


def scores(output: Any, count: int) -> Tensor:
    """The outputs as (count, outputs), in single precision at least.

    Raises:
        TypeError: for what holds no floating-point tensor.
        ValueError: for a tensor that is not one number, or one row of numbers, per sample.
    """
    found = getattr(output, "logits", output)
    if not isinstance(found, Tensor) or not found.is_floating_point():
        what = found.dtype if isinstance(found, Tensor) else type(found).__name__
        raise TypeError(f"the model gives {what}; wrap it so that it gives logits, as in lambda x: model(x)[0]")
    if found.ndim not in (1, 2) or len(found) != count:
        raise ValueError(
            f"the model gives a tensor of shape {tuple(found.shape)} for {count} samples; give one score each, "
            f"({count},), or one per class, ({count}, classes)"
        )
    found = found if found.ndim == 2 else found[:, None]
    return found if found.dtype in (torch.float32, torch.float64) else found.float()
