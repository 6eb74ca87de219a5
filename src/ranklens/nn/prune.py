"""Pruning of tensor-factored layers by a bound on how far their weights can change."""

from bisect import bisect_left
from dataclasses import asdict, dataclass

import numpy as np
import torch
import xarray as xr

from ranklens.nn.composed import tensor_factored
from ranklens.nn.compression import Compression
from ranklens.nn.model_state import M, copied
from ranklens.tensors.annotations import checked
from ranklens.tensors.init import is_chain
from ranklens.tensors.layout import Label
from ranklens.tensors.network import TensorNetwork
from ranklens.tensors.truncation import truncate


@dataclass(frozen=True)
class _Row:
    """What the table says of one layer; the fields are the variables of the table."""

    components: int
    components_kept: int
    parameters: int
    parameters_kept: int
    bound: float
    error: float


@torch.no_grad()
@checked
def prune(model: M, tolerance: float) -> Compression[M]:
    r"""Return a copy of a model whose tensor-factored layers lack the components that provably matter least.

    At every bond, the components of smallest norm are removed. The removal changes a weight by at most

        sum over bonds of (norms of the removed components) x (product of the norms of the nodes that the bond does not
        meet),

    in Frobenius norm. As many components are removed as keep this bound at or below `tolerance` times the norm
    of the weight. Every bond may use an equal part of the tolerance, as in the theorem.

    Args:
        model: a model with layers factored by `overparameterize(kind=...)` as "cp", "hierarchical", "tensor_train" or
            "tucker"; it is not changed. All other layers stay as they are, also those factored into a product of
            matrices or a chain of kernels.
        tolerance: largest relative change of every weight in Frobenius norm, between 0 and 1.

    Returns:
        A `Compression` with the pruned model. Its table is a Dataset over `layer` with the variables components and
        components_kept (summed over all bonds), parameters and parameters_kept (entries of all factors), bound (the
        bound above divided by the weight's norm), and error (the change of the weight divided by its norm).

    Raises:
        ValueError: if the tolerance is not in [0, 1], or no layer of the model is factored as a tensor.

    Source: Razin, Maman, Cohen (ICML 2022), theorem on low local component norms and hierarchical tensor rank.

    >>> import torch, ranklens as rl
    >>> deep = rl.nn.overparameterize(torch.nn.Linear(16, 16).double(), kind="hierarchical", tensorize=((4, 4), (4, 4)))
    >>> table = rl.nn.prune(deep, 0.2).table
    >>> bool(table.error[0] <= table.bound[0] <= 0.2), bool(table.components_kept[0] <= table.components[0])
    (True, True)
    """
    if not 0 <= tolerance <= 1:
        raise ValueError(f"tolerance is {tolerance}; give a relative error, at least 0 and at most 1")
    model = copied(model)
    rows: dict[str, _Row] = {}
    for name, composition, net in list(tensor_factored(model)):
        if not is_chain(net):
            weight = net.tensor()
            small = truncate(net, _least_widths(net, tolerance * float(weight.norm()) / max(len(net.bonds), 1)))
            small.requires_grad_(any(p.requires_grad for p in net.parameters()))
            rows[name] = _row(net, small)
            composition.replace(small)
    if not rows:
        raise ValueError(
            "no layer is a tensor factorization; make some with rl.nn.overparameterize(kind='hierarchical')"
        )
    table = [asdict(row) for row in rows.values()]
    data = {name: ("layer", np.array([row[name] for row in table])) for name in table[0]}
    return Compression(model, xr.Dataset(data, coords={"layer": list(rows)}))


def _row(net: TensorNetwork, small: TensorNetwork) -> _Row:
    """Return the row of the table for a network and its pruned version."""
    weight = net.tensor()
    norm = float(weight.norm()) or 1.0
    widths = {bond: small.layout.sizes[bond] for bond in net.bonds}
    return _Row(
        components=sum(net.layout.sizes[bond] for bond in net.bonds),
        components_kept=sum(widths.values()),
        parameters=sum(p.numel() for p in net.parameters()),
        parameters_kept=sum(p.numel() for p in small.parameters()),
        bound=_bound(net, widths) / norm,
        error=float((small.tensor() - weight).norm()) / norm,
    )


def _least_widths(net: TensorNetwork, allowed: float) -> dict[Label, int]:
    """Return for every bond the least width for which the bond's own term of the bound is at most `allowed`."""

    def least(bond: Label) -> int:
        widths = range(1, net.layout.sizes[bond] + 1)
        # The term falls with the width, so its negative rises, as a binary search needs it.
        place = bisect_left(widths, -allowed, key=lambda width: -_bound(net, {bond: width}))
        return widths[place]

    return {bond: least(bond) for bond in net.bonds}


def _bound(net: TensorNetwork, widths: dict[Label, int]) -> float:
    """Return how far truncating a network to these widths can move its end tensor in Frobenius norm."""
    from ranklens.theory.rank_bounds import pruning_bound  # imports scipy, which no other part of rl.nn needs

    return float(pruning_bound(net, widths))
