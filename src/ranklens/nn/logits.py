"""The logits in the output of a model, whatever object they are wrapped in."""

import torch
from torch import Tensor


def logits(output: object, count: int) -> Tensor:
    """Return the logits in a model's output as a tensor of shape (count, outputs), in float32 or float64.

    Logits of lower precision are converted to float32.

    Args:
        output: the logits as a tensor, or an object whose attribute `logits` is that tensor, as the outputs of Hugging
            Face models. The tensor has shape (count,), (count, 1) or (count, outputs).
        count: number of samples that the model was given.

    Returns:
        A tensor of shape (count, outputs), with one output for logits of shape (count,).

    Raises:
        TypeError: for an output that is not a floating-point tensor and holds none.
        ValueError: for a tensor of any other shape.

    >>> import torch
    >>> logits(torch.zeros(5, dtype=torch.float16), 5).shape
    torch.Size([5, 1])
    """
    found = getattr(output, "logits", output)
    if not isinstance(found, Tensor) or not found.is_floating_point():
        kind = found.dtype if isinstance(found, Tensor) else type(found).__name__
        raise TypeError(f"the model gives {kind}; wrap it so that it gives logits, as in lambda x: model(x)[0]")
    if found.ndim not in (1, 2) or len(found) != count:
        raise ValueError(
            f"the model gives a tensor of shape {tuple(found.shape)} for {count} samples; give one logit each, "
            f"({count},), or one per class, ({count}, classes)"
        )
    found = found if found.ndim == 2 else found[:, None]
    return found if found.dtype in (torch.float32, torch.float64) else found.float()
