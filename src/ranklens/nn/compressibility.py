"""Layer-wise compressibility: how many components of a layer its outputs on given data can do without, by a bound."""

import math
from dataclasses import asdict, dataclass

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn

from ranklens.nn.calibration import Runs, evaluating, watch
from ranklens.nn.composed import tensor_factored
from ranklens.nn.model_state import bare
from ranklens.nn.overparameterize import collapse
from ranklens.tensors.annotations import checked
from ranklens.tensors.network import TensorNetwork
from ranklens.tensors.truncation import truncate

# Layers whose output, without the bias, is a matrix times every patch of the input.
LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
# Relative error of a layer's output up to which components are left out, unless another is given.
ERROR = 0.1


@dataclass(frozen=True)
class _Row:
    """What the table says of one layer; the fields are the variables of the table."""

    components: int
    components_kept: int
    tensorization_factor: float
    norm: float
    cushion: float
    bound: float
    change: float
    numbers: int


class _Components:
    """The components of a layer's weight in descending order of their norms.

    Args:
        weight: the weight.
        network: the CP factorization of the weight, or None for the components of its singular value decomposition.
    """

    def __init__(self, weight: Tensor, network: TensorNetwork | None) -> None:
        self.weight, self._network = weight.detach().double(), network
        self.modes: tuple[int, ...]
        if network is None:
            self._svd = torch.linalg.svd(self.weight.flatten(1), full_matrices=False)
            self.norms, self.modes = self._svd.S, (len(weight), weight[0].numel())
        else:
            (bond,) = network.bonds
            self.norms = network.component_norms(bond).detach().double().sort(descending=True).values
            self.modes = tuple(network.tensor().shape)

    def first(self, count: int) -> Tensor:
        """Return the sum of the first components, in float64 and the shape of the weight."""
        if count == len(self.norms):
            return self.weight  # exactly, so that leaving out nothing changes nothing
        if self._network is None:
            U, S, Vh = self._svd
            return ((U[:, :count] * S[:count]) @ Vh[:count]).reshape(self.weight.shape)
        (bond,) = self._network.bonds
        return truncate(self._network, {bond: count}).tensor().detach().double().reshape(self.weight.shape)

    def noise_bounds(self) -> Tensor:
        """Return the sums of the norms of all components after the first, after the first two, and so on."""
        return torch.cat([self.norms.flip(0).cumsum(0).flip(0)[1:], self.norms.new_zeros(1)])


@checked
def compressibility(model: nn.Module, data: object, *, error: float = ERROR) -> xr.Dataset:
    r"""Return how many components of each layer suffice for its outputs on given data, by a bound.

    A layer multiplies every patch of its input (for Linear, every row) by its weight W, a sum of components of norms
    sigma_1 >= sigma_2 >= ...: outer products for a layer factored as "cp", and otherwise the singular components of the
    weight as a matrix. Let x be an input, P(x) the norm of all its patches together, and y the output without the bias.

        tensorization factor   t = sum over all r of sigma_r
        noise bound            xi_j = sum over r > j of sigma_r
        layer cushion          zeta = min over the data of |y| / (|W| P(x)), in Frobenius norm

    Without the components after the j-th the output moves by at most xi_j P(x), because the norm of a matrix times a
    vector is at most the product of their norms. Relative to |y| this is at most xi_j / (zeta |W|). The table has the
    least j for which this bound is at most `error`. Few large components (small xi_j) and outputs that are not small
    for the data (large zeta) make a layer compressible.

    Args:
        model: a model, factored or not; it is not changed.
        data: inputs of the model, as for `compress`.
        error: the relative error of a layer's output that is allowed, above 0 and below 1.

    Returns:
        A Dataset over `layer` with the variables components, components_kept (j), tensorization_factor, norm (of W),
        cushion, bound (xi_j / (zeta |W|) for this j), change (the largest relative change of an output on the data when
        the other components are left out, which is at most the bound), and numbers (j times one more than the sum of
        the sizes of the modes: how many numbers describe the components that are kept). The bound by compression on the
        difference of training and test error grows with the square root of the sum of `numbers` over the number of
        training samples. The attribute `skipped` gives the reason for each layer with weights that has no row.

    Raises:
        ValueError: if `error` is not in (0, 1), or no layer can be measured.

    Source: after Li, Sun, Su, Suzuki, Huang (AISTATS 2020), who define the three quantities for convolutions factored
        as CP, and multiply them over the layers in their bound; here each layer is measured by itself.

    >>> import torch, ranklens as rl
    >>> layer = torch.nn.Linear(20, 20, bias=False)
    >>> with torch.no_grad():
    ...     _ = layer.weight.copy_(torch.diag(torch.tensor([1.0, 1.0] + 18 * [1e-4])))
    >>> x = torch.ones(5, 20)
    >>> table = rl.nn.compressibility(layer, x)
    >>> table.components_kept.item(), bool(table.change <= table.bound), round(table.cushion.item(), 2)
    (2, True, 0.22)
    """
    if not 0 < error < 1:
        raise ValueError(f"error is {error}; give a relative error, above 0 and below 1")
    networks = {name: net for name, _, net in tensor_factored(model) if _is_cp(net)}
    plain, runs = collapse(bare(model)), Runs(data)
    layers, skipped = _layers(plain)
    if not layers:
        raise ValueError("no layer can be measured; give a model with Linear or Conv layers")
    parts = {name: _Components(layer.get_parameter("weight"), networks.get(name)) for name, layer in layers.items()}
    with evaluating(plain), torch.no_grad():
        found = _cushions(plain, runs, layers)
        skipped |= {name: reason for name in layers if (reason := _why_not(found.get(name)))}
        found = {name: cushion for name, cushion in found.items() if name not in skipped}
        kept = {name: _kept(parts[name], cushion, error) for name, cushion in found.items()}
        changes = _changes(plain, runs, {n: layers[n] for n in kept}, {n: parts[n].first(k) for n, k in kept.items()})
    rows = {name: asdict(_row(parts[name], found[name], kept[name], changes[name])) for name in kept}
    table = {n: ("layer", np.array([row[n] for row in rows.values()])) for n in _Row.__dataclass_fields__}
    return xr.Dataset(table, coords={"layer": list(rows)}, attrs={"error": error, "skipped": skipped})


def _is_cp(net: TensorNetwork) -> bool:
    """Return whether a network is a sum of outer products: one bond, which all nodes meet."""
    return len(net.bonds) == 1 and len(net.layout.meets(net.bonds[0])) == len(net.nodes)


def _layers(model: nn.Module) -> tuple[dict[str, nn.Module], dict[str, str]]:
    """Return the layers of a plain model that can be measured, and why other layers with weights cannot."""
    layers: dict[str, nn.Module] = {}
    skipped: dict[str, str] = {}
    for name, module in model.named_modules():
        if isinstance(module, LAYERS):
            if module._parameters.get("weight") is None:
                skipped[name] = "a hook or parametrization computes its weight; remove it first"
            elif getattr(module, "padding_mode", "zeros") != "zeros":
                skipped[name] = f"its padding is {module.padding_mode}"
            else:
                layers[name] = module
        elif any(True for _ in module.parameters(recurse=False)):
            skipped[name] = f"{type(module).__name__} is not a Linear or Conv layer"
    return layers, skipped


def _applied(layer: nn.Module, weight: Tensor, value: Tensor) -> Tensor:
    """Return the output of a layer with another weight and without its bias, as one row for each sample."""
    value = value.double()
    if isinstance(layer, nn.Linear):
        return nn.functional.linear(value, weight).reshape(len(value) if value.ndim > 1 else 1, -1)
    assert isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d)
    batched = value if value.ndim == layer.weight.ndim else value[None]
    return layer._conv_forward(batched, weight, None).flatten(1)


def _patches(layer: nn.Module, value: Tensor) -> Tensor:
    """Return the norm of all patches of every sample together: a layer of ones applied to the squared entries."""
    groups = int(getattr(layer, "groups", 1))
    ones = torch.ones_like(layer.get_parameter("weight")[:groups], dtype=torch.float64)
    return _applied(layer, ones, value.double().square()).sum(1).sqrt()


def _cushions(model: nn.Module, runs: Runs, layers: dict[str, nn.Module]) -> dict[str, float]:
    """Return the layer cushion of every layer that ran on the data."""
    found: dict[str, float] = {}

    def take(name: str, value: Tensor, _: Tensor) -> None:
        weight = layers[name].get_parameter("weight").double()
        patches = _patches(layers[name], value)
        ratio = _applied(layers[name], weight, value).norm(dim=1) / (weight.norm() or 1.0) / patches
        ratio = ratio[patches != 0]  # NaN is no zero, and the minimum of NaN is NaN
        found[name] = float(torch.cat([ratio, ratio.new_tensor([found.get(name, math.inf)])]).min())

    for run in runs:
        watch(run, model, layers, take)
    return found


def _changes(
    model: nn.Module, runs: Runs, layers: dict[str, nn.Module], weights: dict[str, Tensor]
) -> dict[str, float]:
    """Return the largest relative change of an output of every layer if it had another weight."""
    found = dict.fromkeys(layers, 0.0)

    def take(name: str, value: Tensor, _: Tensor) -> None:
        before = layers[name].get_parameter("weight").double()
        whole = _applied(layers[name], before, value).norm(dim=1)
        moved = _applied(layers[name], weights[name] - before, value).norm(dim=1) / whole
        found[name] = max([found[name], *moved[whole > 0].tolist()])

    for run in runs:
        watch(run, model, layers, take)
    return found


def _why_not(cushion: float | None) -> str | None:
    """Return why a layer has no bound, from its cushion, which is None if the layer did not run; None if it has one."""
    if cushion is None:
        return "it did not run on the data"
    if math.isnan(cushion):
        return "its weight or an input has entries that are not finite"
    if math.isinf(cushion):
        return "all its inputs are zero"
    return None if cushion > 0 else "its weight or an output is zero, so that no relative error is defined"


def _kept(parts: _Components, cushion: float, error: float) -> int:
    """Return the least number of components whose bound is at most `error`."""
    enough = parts.noise_bounds() <= error * cushion * parts.weight.norm()
    return int(enough.long().argmax()) + 1


def _row(parts: _Components, cushion: float, kept: int, change: float) -> _Row:
    """Return the row of the table for a layer."""
    norm, noise = float(parts.weight.norm()), float(parts.noise_bounds()[kept - 1])
    return _Row(
        components=len(parts.norms),
        components_kept=kept,
        tensorization_factor=float(parts.norms.sum()),
        norm=norm,
        cushion=cushion,
        bound=noise / (cushion * norm) if noise else 0.0,
        change=change,
        numbers=kept * (sum(parts.modes) + 1),
    )
