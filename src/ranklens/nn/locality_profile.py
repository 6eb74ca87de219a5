"""How far a trained network's dependence reaches: coupling of patches by their distance, beside an untrained one's."""

import copy
from collections.abc import Sequence

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor, nn

from ranklens import seeds
from ranklens.nn.logits import logits
from ranklens.nn.regions import PatchPairs
from ranklens.nn.separation_rank import evaluating, separation_rank

MEASURES = ("interaction", "share", "effective_rank", "entanglement")


def locality_profile(
    model: nn.Module,
    data: Float[Tensor, "samples *channels rows columns"],
    *,
    size: int | tuple[int, int] | None = None,
    distances: Sequence[int] | None = None,
    pairs: int = 8,
    templates: int = 16,
    seed: int = 0,
    control: nn.Module | bool = True,
    batch_size: int = 256,
) -> xr.Dataset:
    """`separation_rank` of pairs of patches at growing distance, doubly centred, and the same for a random network.

    All else is as in a picture of the data, drawn anew for every pair. What an untrained network of the same
    architecture shows is owed to that; only what differs from it is owed to training.

    Args:
        model: images to (batch,) or (batch, outputs) numbers; measured in evaluation mode.
        data: images, two at least, from which patches and surroundings come.
        size: of a patch; None is an eighth of the shorter side.
        distances: least gaps between the rows, or columns, of the two; None goes from 0 by the size as far as there is
            room.
        pairs: of patches per distance, the same for model and control.
        templates: of each patch; a pair costs their square in evaluations.
        seed: of pairs, pictures and control.
        control: a fresh network to measure beside the trained one; True draws the values of a copy anew by its
            modules' `reset_parameters`, which are PyTorch's defaults, so pass one of your own where you start
            otherwise; False for none.
        batch_size: images that are evaluated together, about.

    Returns:
        A Dataset over `distance` and `network` ("trained", "random"), means over pairs and outputs: `interaction`, the
        coupling of the two patches relative to the standard deviation of the output over the data; `share`,
        `effective_rank` and `entanglement` as in `Separation`. `rl.plot` draws it.

    Raises:
        ValueError: for fewer than two images, no distance, or patches without room; and as `separation_rank` does.

    Source: after Razin, Maman, Cohen (ICML 2022), section 5, which relates rank and distance.

    >>> import torch, ranklens as rl
    >>> with torch.random.fork_rng():
    ...     images, near = torch.randn(40, 1, 8, 8), torch.nn.Conv2d(1, 4, 3)
    ...     model = torch.nn.Sequential(near, torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    >>> found = rl.nn.locality_profile(model, images, size=1, pairs=2).interaction.sel(network="trained")
    >>> bool(found[0] > 0), bool((found[3:] == 0).all())  # nothing couples what no kernel covers
    (True, True)
    """
    if len(data) < 2 or pairs < 1:
        raise ValueError(f"there are {len(data)} images and {pairs} pairs; give two images and one pair at least")
    rows, columns = data.shape[-2:]
    whole = PatchPairs(max(min(rows, columns) // 8, 1) if size is None else size)
    height, width = whole.height, whole.width
    if distances is None:
        distances = range(0, max(rows - 2 * height, columns - 2 * width) + 1, max(height, width))
    if len(distances) == 0:
        raise ValueError(f"there is no distance at which two patches of {height} x {width} fit {rows} x {columns}")
    networks = {"trained": model}
    if control is not False:
        fresh = _initialized_anew(model, seed, data.device) if control is True else control
        networks["random"] = fresh
    scales = {name: _deviation(network, data, batch_size) for name, network in networks.items()}
    drawn = seeds.stream(seed, "locality profile")
    tables = np.zeros((len(MEASURES), len(distances), len(networks)))
    for n, distance in enumerate(distances):
        draw = PatchPairs((height, width), distance=int(distance), most=int(distance))
        for _ in range(pairs):
            first, second = draw(data.shape[1:], drawn)
            x = data[torch.randperm(len(data), generator=drawn)[:templates].to(data.device)]
            for k, (name, network) in enumerate(networks.items()):
                found = separation_rank(network, x, first, against=second, templates=templates, batch_size=batch_size)
                values = (found.interaction / scales[name], found.share, found.effective_rank, found.entanglement)
                tables[:, n, k] += [float(value.mean()) / pairs for value in values]
    return xr.Dataset(
        {name: (("distance", "network"), table) for name, table in zip(MEASURES, tables, strict=True)},
        coords={"distance": [int(d) for d in distances], "network": list(networks)},
        attrs={"patch_height": height, "patch_width": width, "pairs": pairs, "templates": templates, "seed": seed},
    )


@torch.no_grad()
def _deviation(model: nn.Module, data: Tensor, batch_size: int) -> Tensor:
    """Of every output over the data; 1 where it is constant."""
    with evaluating(model):
        outputs = torch.cat([logits(model(part), len(part)) for part in data.split(batch_size)])
    found = outputs.std(dim=0)
    return found.where(found > 0, 1.0)


def _initialized_anew(model: nn.Module, seed: int, device: torch.device) -> nn.Module:
    """A copy whose modules draw their initial values; parameters without a way to are normal, of equal mean and std."""
    fresh = copy.deepcopy(model).cpu()
    with seeds.initial_values(seed, "random network"), torch.no_grad():
        for module in fresh.modules():
            reset = getattr(module, "reset_parameters", None)
            if callable(reset):
                reset()
                continue
            for parameter in module.parameters(recurse=False):
                spread = parameter.std() if parameter.numel() > 1 else 0.0
                parameter.copy_(parameter.mean() + spread * torch.randn(parameter.shape).to(parameter))
    return fresh.to(device)
