"""A plain training loop: draw a batch, compute its loss, take a step of the optimizer.

Some loops of the package do more than this one and stay apart. `dynamics.descent` records norms and the loss over all
observations of a tensor network, can be resumed, and returns to its last record if the loss diverges.
`completers.descent` stops by the error on held-out entries and keeps the best network. `training.resumable` counts
epochs, writes checkpoints and runs on several devices.
"""

import math
import warnings
from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor, nn

Rows: TypeAlias = Tensor | slice  # Row numbers of the samples in a batch; an index of a tensor's first axis.


def all_rows() -> slice:
    """Return the slice that selects all samples as one batch, for training without mini-batches.

    >>> all_rows()
    slice(None, None, None)
    """
    return slice(None)


def random_rows(count: int, batch_size: int, generator: torch.Generator) -> Callable[[], Tensor]:
    """Return a function that draws the row numbers of one batch, uniformly and with replacement.

    Args:
        count: number of training samples.
        batch_size: number of rows in a batch.
        generator: the random stream; every call of the returned function advances it.

    Returns:
        A function without arguments that returns an int64 tensor of shape (batch_size,), of numbers below `count`.

    >>> import torch
    >>> draw = random_rows(5, 3, torch.Generator().manual_seed(0))
    >>> draw().shape, bool((draw() < 5).all())
    (torch.Size([3]), True)
    """
    return lambda: torch.randint(count, (batch_size,), generator=generator)


def train(
    loss: Callable[[Rows], Tensor],
    optimizer: torch.optim.Optimizer,
    *,
    steps: int,
    batches: Callable[[], Rows] = all_rows,
    schedule: torch.optim.lr_scheduler.LRScheduler | None = None,
    clip: float | None = None,
    watch: Callable[[int], None] | None = None,
    every: int = 1,
) -> int:
    """Take steps of an optimizer on the loss of one batch each, and return the number of steps taken.

    Training stops with a warning at the first batch whose loss is not finite. Parameters are then as they were before
    that batch, and `watch` is not called again.

    Args:
        loss: returns the loss of the samples in a batch, a scalar that is differentiable in the parameters.
        optimizer: an optimizer of the parameters to train.
        steps: number of steps.
        batches: is called once per step and returns the batch's rows; the default returns all rows.
        schedule: a learning-rate schedule of this optimizer, advanced once after every step.
        clip: largest Euclidean norm of the gradient, over all parameters together; longer gradients are scaled down to
            this norm. None leaves gradients as they are.
        watch: is called with the number of steps taken: before the first step, after every `every`-th, and after the
            last one.
        every: number of steps between two calls of `watch`.

    Returns:
        The number of steps taken: `steps`, or fewer if the loss became infinite or NaN.

    Raises:
        ValueError: for a negative number of steps, or for `every` below 1.

    >>> import torch
    >>> x = torch.tensor([1.0, 2.0, 3.0])
    >>> mean = torch.nn.Parameter(torch.zeros(()))
    >>> optimizer = torch.optim.SGD([mean], lr=0.25)
    >>> train(lambda rows: (x[rows] - mean).square().mean(), optimizer, steps=50)
    50
    >>> round(float(mean.detach()), 4)
    2.0
    """
    if steps < 0 or every < 1:
        raise ValueError(f"steps is {steps} and every is {every}; give at least 0 steps, and every as 1 or more")
    for step in range(steps):
        if watch is not None and step % every == 0:
            watch(step)
        batch_loss = loss(batches())
        value = float(batch_loss.detach())
        if not math.isfinite(value):
            message = f"the training loss is {value} at step {step}, so training stopped; take a smaller learning rate"
            warnings.warn(message, RuntimeWarning, stacklevel=2)
            return step
        optimizer.zero_grad()
        batch_loss.backward()
        if clip is not None:
            nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], clip)
        optimizer.step()
        if schedule is not None:
            schedule.step()
    if watch is not None:
        watch(steps)
    return steps
