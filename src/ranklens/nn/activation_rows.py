"""A queue of the latest rows of an activation, over several forward passes, and their rank."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, distributed, nn

from ranklens.nn.spectrum import spectrum
from ranklens.tensors import measures

# Modules in whose output of three axes the channels are the second axis, not the last.
CHANNELS_FIRST = (nn.modules.conv._ConvNd, nn.modules.batchnorm._NormBase)
# A forward pass puts at most this share of the queue into it, so that the rows come from several batches.
PASSES = 8
# Number that is added to every p_k in RankMe, as published.
RANKME_EPS = 1e-7
# Weights of the effective ranks of all rows, of every second and of every fourth row. They add up to 1, and they cancel
# terms in 1/n and 1/n^2: these terms are 1, 2, 4 and 1, 4, 16 times as large for the three numbers of rows.
EXTRAPOLATION = (8 / 3, -2.0, 1 / 3)
# Least number of rows for which the effective rank is extrapolated: two in every fourth.
LEAST_ROWS = 8


class ActivationRows:
    """The latest rows of the output of a module: the channels are the columns, all other axes are rows.

    An activation of one forward pass of b rows has rank b - 1 at most after its mean is taken off. A queue over several
    passes shows higher ranks.

    Args:
        size: number of rows that the queue holds, at least 2.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._rows: Tensor | None = None
        self._count = 0
        self._next = 0

    def add(self, output: Shaped[Tensor, "..."], module: nn.Module) -> None:
        """Put rows of an output into the queue, evenly spaced if there are many; the oldest rows make way.

        Args:
            output: output of the module, of two axes or more. The second axis has the channels for convolutions, batch
                normalization and every output of four axes or more, otherwise the last axis.
            module: the module.
        """
        if output.ndim < 2 or not output.is_floating_point():
            return
        output = output.detach()
        if output.ndim > 3 or (output.ndim == 3 and isinstance(module, CHANNELS_FIRST)):
            output = output.movedim(1, -1)
        rows = output.flatten(0, -2)
        most = max(self.size // PASSES, 1)
        rows = rows[:: max(len(rows) // most, 1)][:most]
        if self._rows is None or self._rows.shape[1] != rows.shape[1] or self._rows.device != rows.device:
            self._rows = torch.empty(self.size, rows.shape[1], dtype=torch.float32, device=rows.device)
            self._count = self._next = 0
        places = torch.arange(self._next, self._next + len(rows), device=rows.device) % self.size
        self._rows[places] = rows.to(self._rows.dtype)
        self._next = (self._next + len(rows)) % self.size
        self._count = min(self._count + len(rows), self.size)

    def __len__(self) -> int:
        return self._count

    def rows(self) -> Float[Tensor, "rows channels"]:
        """Return a copy of the rows, or a matrix without rows if there are none."""
        return torch.empty(0, 0) if self._rows is None else self._rows[: self._count].clone()


def tensor_in(output: object) -> Tensor | None:
    """Return the tensor in the output of a module.

    Args:
        output: what the module returned.

    Returns:
        The output itself, its first element, its last hidden state or its logits, whichever is a tensor; or None.
    """
    for found in (
        output,
        output[0] if isinstance(output, tuple | list) and output else None,
        getattr(output, "last_hidden_state", None),
        getattr(output, "logits", None),
    ):
        if isinstance(found, Tensor):
            return found
    return None


@dataclass(frozen=True)
class ActivationRank:
    """Measures of the rows of an activation.

    Attributes:
        effective_rank: effective rank of the covariance of the activation, estimated for infinitely many rows.
        effective_rank_of_rows: effective rank of the rows minus their mean, which is too low for few rows.
        stable_rank: stable rank of the rows minus their mean.
        frobenius: Frobenius norm of the rows minus their mean.
        rankme: RankMe of the rows, whose mean is not taken off.
        rows: number of rows.
    """

    effective_rank: float
    effective_rank_of_rows: float
    stable_rank: float
    frobenius: float
    rankme: float
    rows: float


def activation_rank(rows: Float[Tensor, "rows channels"]) -> ActivationRank:
    r"""Return the rank measures of rows of an activation.

    RankMe is exp(-sum_k p_k ln p_k) with p_k = s_k / sum s + 1e-7, where s are the singular values of the rows as they
    are. The effective ranks are of the rows minus their mean; otherwise one large direction, that of the mean, counts.

    The effective rank R(n) of n rows is too low, because chance spreads the singular values of few rows: 2,048 rows of
    400 equally strong directions have effective rank 390. A smooth function of the sample covariance, whose deviations
    from the covariance are of order n^(-1/2), has the mean R + a / n + b / n^2 + O(n^-3). The effective ranks of every
    second and every fourth row hold the same a and b, so that

        R = 8/3 R(n) - 2 R(n/2) + 1/3 R(n/4) + O(n^-3).

    This is `effective_rank`, at least 1 and at most the number of channels and n - 1; `effective_rank_of_rows` is R(n).
    The formula needs no law of the rows, but the rows must be independent, and more than there are channels with much
    variance: for Gaussian rows it is off by at most 1% if n is four times the number of channels, by 3% if n is twice
    that number, and by a third if the numbers are equal. Fewer than 8 rows are not extrapolated.

    Args:
        rows: at least two rows.

    Returns:
        The measures; all are NaN but the number of rows, if an entry is not finite.

    Source: Garrido, Balestriero, Najman, LeCun (ICML 2023) for RankMe; Richardson extrapolation for the effective rank,
    own derivation.

    >>> import torch
    >>> rows = torch.randn(2048, 400, generator=torch.Generator().manual_seed(0)) + 100
    >>> found = activation_rank(rows)
    >>> round(found.effective_rank), round(found.effective_rank_of_rows), round(found.rankme)
    (399, 390, 4)
    """
    parts = [_centred_spectrum(rows[::stride]) for stride in ((1, 2, 4) if len(rows) >= LEAST_ROWS else (1,))]
    centred = parts[0]
    ranks = [effective_rank(part) for part in parts]
    p = spectrum(rows)
    total = p.sum()
    p = (p / total.where(total > 0, 1.0)) + RANKME_EPS
    return ActivationRank(
        effective_rank=_extrapolated(ranks, min(rows.shape[1], len(rows) - 1)),
        effective_rank_of_rows=ranks[0],
        stable_rank=float(measures.stable_rank_of(centred)),
        frobenius=float(centred.square().sum().sqrt()),
        rankme=float((-(p * p.log()).sum()).exp()),
        rows=float(len(rows)),
    )


def _centred_spectrum(rows: Tensor) -> Tensor:
    """Return the singular values of rows minus their mean."""
    return spectrum(rows - rows.mean(dim=0))


def _extrapolated(ranks: Sequence[float], most: int) -> float:
    """Return the effective rank for infinitely many rows, from those of all, every second and every fourth row.

    The effective rank of rows that are all equal is 0 and stays so.
    """
    if len(ranks) < len(EXTRAPOLATION) or not ranks[0] > 0:
        return ranks[0]
    found = sum(weight * rank for weight, rank in zip(EXTRAPOLATION, ranks, strict=True))
    return min(max(found, 1.0), float(most))


def effective_rank(singular: Float[Tensor, " values"]) -> float:
    """Return the effective rank from singular values; NaN if they are."""
    return float("nan") if bool(torch.isnan(singular).any()) else float(measures.effective_rank_of(singular))


def gathered(queues: Mapping[str, ActivationRows]) -> dict[str, Tensor]:
    """Return the rows of every queue, of all processes of a distributed training together.

    All processes must call this function equally often, with queues of the same names.

    Args:
        queues: the queues of this process, by name.

    Returns:
        {name: rows}, equal in all processes.
    """
    rows = {name: queue.rows() for name, queue in queues.items()}
    if processes() == 1:
        return rows
    device = next((x.device for x in rows.values() if len(x)), _device())
    sizes = torch.tensor([list(x.shape) for x in rows.values()], device=device).reshape(-1, 2)
    every = [torch.zeros_like(sizes) for _ in range(processes())]
    distributed.all_gather(every, sizes)
    counts = torch.stack(every).cpu()
    found = {}
    for k, (name, own) in enumerate(rows.items()):
        most, channels = int(counts[:, k, 0].max()), int(counts[:, k, 1].max())
        padded = torch.zeros(most, channels, device=device)
        padded[: own.shape[0], : own.shape[1]] = own
        parts = [torch.zeros_like(padded) for _ in range(processes())]
        distributed.all_gather(parts, padded)
        found[name] = torch.cat([part[: int(counts[r, k, 0])] for r, part in enumerate(parts)])
    return found


def processes() -> int:
    """Return the number of processes of the distributed training that this process takes part in, or 1."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def is_first() -> bool:
    """Return whether this process is the first of a distributed training, or the only one."""
    return processes() == 1 or distributed.get_rank() == 0


def _device() -> torch.device:
    """Return where the backend of the distributed training exchanges tensors."""
    return torch.device("cuda" if distributed.get_backend() == "nccl" else "cpu")
