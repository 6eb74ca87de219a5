"""What weight decay forgets: how far the weights of mini-batch SGD can be from a matrix of low rank."""

import math

from ranklens.tensors import arguments
from ranklens.tensors.annotations import checked


@checked
def memory_steps(lr: float, weight_decay: float, tolerance: float = math.exp(-1)) -> int:
    """Return after how many steps of SGD weight decay has shrunk a contribution to a weight to a given share.

    A step W <- (1 - lr weight_decay) W - lr gradient multiplies everything that earlier steps wrote by 1 - lr
    weight_decay, so what was written k steps ago is left to a share of (1 - lr weight_decay)^k. That is `tolerance` for
    k = ln(1 / tolerance) / -ln(1 - lr weight_decay), about ln(1 / tolerance) / (lr weight_decay), rounded up.

    Args:
        lr: learning rate, positive.
        weight_decay: weight decay as `torch.optim.SGD` means it, so that lr weight_decay is above 0 and below 1.
        tolerance: the share, above 0 and below 1; by default 1 / e.

    Raises:
        ValueError: if a number is outside its range.

    Source: Galanti, Siegel, Gupte, Poggio (CPAL 2025), whose penalty lambda |W|^2 is a weight decay of 2 lambda.

    >>> import ranklens as rl
    >>> rl.theory.memory_steps(0.1, 0.1)
    100
    """
    lr = arguments.number("lr", lr, above=0)
    decay = lr * arguments.number("weight_decay", weight_decay, above=0)
    if decay >= 1:
        raise ValueError(f"lr * weight_decay is {decay:g}; it must be below 1, or a step forgets all that was learned")
    share = arguments.number("tolerance", tolerance, above=0)
    if share >= 1:
        raise ValueError(f"tolerance is {share}; it is a share of the norm, above 0 and below 1")
    return math.ceil(math.log(share) / math.log1p(-decay))


@checked
def memory_rank(batch_size: int, lr: float, weight_decay: float, *, tolerance: float, uses: int = 1) -> int:
    """Return a rank that the weights of a layer are close to after SGD with weight decay: batch size times memory.

    The gradient of a batch of B samples in the matrix of a linear layer is a sum of B outer products, and has rank B at
    most. With k = `memory_steps(lr, weight_decay, tolerance)`, the last k steps have written a matrix of rank k B at
    most, and all that is older is left to a share of `tolerance`:

        min over matrices V of rank k B of |W_t - V| <= tolerance |W_(t - k)|

    Nothing is assumed of data, loss or convergence. The bound says something only if k B is below both sizes of W.

    Args:
        batch_size: number B of samples in a batch.
        lr: learning rate of plain SGD, without momentum.
        weight_decay: weight decay as `torch.optim.SGD` means it.
        tolerance: the share, above 0 and below 1.
        uses: how often a sample passes through the layer: 1 for a linear layer on vectors, the number of positions for
            a convolution or a layer on sequences.

    Raises:
        ValueError: if a number is outside its range.

    Source: Galanti, Siegel, Gupte, Poggio (CPAL 2025), theorem on the rank of weights under SGD with weight decay.

    >>> import ranklens as rl
    >>> rl.theory.memory_rank(4, 0.1, 0.1, tolerance=0.01)  # 4 * 459 steps
    1836
    """
    samples = arguments.count("batch_size", batch_size) * arguments.count("uses", uses)
    return samples * memory_steps(lr, weight_decay, tolerance)
