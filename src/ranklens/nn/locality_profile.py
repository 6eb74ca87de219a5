"""Coupling of two patches of an image by a network, as a function of their distance."""

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
from ranklens.tensors import arguments
from ranklens.tensors.annotations import checked

MEASURES = ("interaction", "share", "effective_rank", "entanglement")


@checked
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
    """Measure how strongly a network couples two patches of an image, at growing distance between them.

    For each distance, pairs of patches are drawn at random, and `separation_rank` measures their coupling, doubly
    centred. Pixels outside both patches are as in a random image of the data, drawn anew for each pair. An untrained
    network of the same architecture is measured on the same patches and images: differences between the two come from
    training, and all else from the architecture.

    Args:
        model: maps images to (batch,) or (batch, outputs) numbers; it is run in evaluation mode.
        data: at least two images, which fill the patches and their surroundings.
        size: height and width of a patch in pixels, or one number for both; None takes an eighth of the images' shorter
            side, at least 1.
        distances: distances in pixels. The distance of two patches is the larger of the gap between their rows and the
            gap between their columns. None takes all multiples of a patch's larger side, from 0 up to the largest that
            fits.
        pairs: number of pairs of patches per distance.
        templates: number of images from which each patch is filled, at least 2. All combinations of the two patches
            are evaluated: templates * templates inputs per pair.
        seed: seed of the pairs, of the images, and of the untrained network's initial values.
        control: the untrained network. True takes a copy of the model whose modules are initialized by their own
            `reset_parameters`, the defaults of PyTorch; pass a network if yours is initialized otherwise. False
            measures the model alone.
        batch_size: approximate number of images that are evaluated together.

    Returns:
        A Dataset over (`distance`, `network`), where `network` is "trained" and, unless `control` is False, "random".
        A pair of patches gives a table F of the output's values: row i has the first patch from image i, column j the
        second from image j. The doubly centred table is F minus its row means and column means, plus its mean. All
        variables are means over pairs and outputs: `interaction`, the root mean square of the centred table, divided
        by the standard deviation of the output over `data` (not divided if the output is constant); `share`, the part
        of the variance of F that is in the centred table, from 0 to 1; `effective_rank` and `entanglement` (in nats)
        of the centred table. All four are 0 for patches without interaction. `rl.plot` draws the Dataset.

    Raises:
        ValueError: for fewer than two images or one pair; for no distances; or for patches that do not fit.

    Source: after Razin, Maman, Cohen (ICML 2022), section 5, which relates rank and distance.

    >>> import torch, ranklens as rl
    >>> with torch.random.fork_rng():
    ...     images, near = torch.randn(40, 1, 8, 8), torch.nn.Conv2d(1, 4, 3)
    ...     model = torch.nn.Sequential(near, torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    >>> found = rl.nn.locality_profile(model, images, size=1, pairs=2).interaction.sel(network="trained")
    >>> bool(found[0] > 0), bool((found[2:] == 0).all())  # no kernel covers both patches from distance 2 on
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
        raise ValueError(
            f"distances is empty, or there is none at which two patches of {height} x {width} fit {rows} x {columns}; "
            f"give a distance, or a smaller size"
        )
    arguments.count("batch_size", batch_size)
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
    """Return the standard deviation of every output over the data, or 1 for a constant output."""
    with evaluating(model):
        outputs = torch.cat([logits(model(part), len(part)) for part in data.split(batch_size)])
    found = outputs.std(dim=0)
    return found.where(found > 0, 1.0)


def _initialized_anew(model: nn.Module, seed: int, device: torch.device) -> nn.Module:
    """Return a copy of a model with new initial values.

    A module with `reset_parameters` is initialized by it. Parameters of other modules are drawn from the normal
    distribution with the mean and standard deviation that their values have now.
    """
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
