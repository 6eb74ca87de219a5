"""A queue of the latest rows of an activation, over several forward passes, and their rank."""

from collections.abc import Mapping
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
        effective_rank: effective rank of the rows minus their mean.
        effective_rank_limit: the effective rank extrapolated to infinitely many rows.
        stable_rank: stable rank of the rows minus their mean.
        frobenius: Frobenius norm of the rows minus their mean.
        rankme: RankMe of the rows, whose mean is not taken off.
        rows: number of rows.
    """

    effective_rank: float
    effective_rank_limit: float
    stable_rank: float
    frobenius: float
    rankme: float
    rows: float


def activation_rank(rows: Float[Tensor, "rows channels"]) -> ActivationRank:
    r"""Return the rank measures of rows of an activation.

    RankMe is exp(-sum_k p_k ln p_k) with p_k = s_k / sum s + 1e-7, where s are the singular values of the rows as they
    are. The effective rank is of the rows minus their mean; otherwise one large direction, that of the mean, counts.

    n rows show less than the full rank: their singular values spread by chance, which lowers the effective rank by
    about c / n, for a c that depends on the spectrum. Every other row shows c / (n / 2) less, so that twice the
    effective rank of all rows minus that of every other row is off by a smaller term. This is `effective_rank_limit`.

    Args:
        rows: at least two rows.

    Returns:
        The measures; all are NaN but the number of rows, if an entry is not finite.

    Source: Garrido, Balestriero, Najman, LeCun (ICML 2023) for RankMe.

    >>> import torch
    >>> rows = torch.randn(2000, 40, generator=torch.Generator().manual_seed(0)) + 100
    >>> found = activation_rank(rows)
    >>> round(found.effective_rank, 1), round(found.effective_rank_limit, 1), round(found.rankme, 1)
    (39.9, 40.0, 1.5)
    """
    centred = spectrum(rows - rows.mean(dim=0))
    half = rows[::2]
    fewer = spectrum(half - half.mean(dim=0))
    whole, part = effective_rank(centred), effective_rank(fewer)
    p = spectrum(rows)
    total = p.sum()
    p = (p / total.where(total > 0, 1.0)) + RANKME_EPS
    return ActivationRank(
        effective_rank=whole,
        effective_rank_limit=min(2 * whole - part, float(rows.shape[1])),
        stable_rank=float(measures.stable_rank_of(centred)),
        frobenius=float(centred.square().sum().sqrt()),
        rankme=float((-(p * p.log()).sum()).exp()),
        rows=float(len(rows)),
    )


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
