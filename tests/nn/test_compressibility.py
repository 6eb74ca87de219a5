"""Layer-wise compressibility, against literal loops over patches, and its bound on layers of all kinds."""

import math

import numpy as np
import pytest
import torch
from torch import nn

import ranklens as rl

# Relative error of sums in float64 over weights in float32.
SINGLE = 1e-5

pytestmark = pytest.mark.usefixtures("initial_values")

CONVOLUTIONS = {
    "padded": {"padding": 1},
    "strided": {"stride": 2, "padding": 2},
    "dilated": {"dilation": 2, "bias": False},
    "grouped": {"groups": 2, "padding": 1},
}


@pytest.mark.parametrize("options", CONVOLUTIONS.values(), ids=CONVOLUTIONS)
def test_terms_are_the_literal_ones(options):
    layer, x = nn.Conv2d(4, 6, 3, **options), torch.randn(5, 4, 9, 9)
    table = rl.nn.compressibility(layer, x, error=0.5).isel(layer=0)
    pads = (*[options.get("padding", 0)] * 4,)
    step, wide, groups = options.get("stride", 1), options.get("dilation", 1), options.get("groups", 1)
    image, weight = nn.functional.pad(x, pads).double().numpy(), layer.weight.detach().double().numpy()
    ratios = []
    for sample in image:
        patches = outputs = 0.0
        for g in range(groups):
            part = sample[g * 4 // groups : (g + 1) * 4 // groups]
            rows = weight[g * 6 // groups : (g + 1) * 6 // groups].reshape(6 // groups, -1)
            for i in range(0, image.shape[2] - 2 * wide, step):
                for j in range(0, image.shape[3] - 2 * wide, step):
                    patch = part[:, i : i + 2 * wide + 1 : wide, j : j + 2 * wide + 1 : wide].ravel()
                    patches += float(patch @ patch)
                    outputs += float(((rows @ patch) ** 2).sum())
        ratios.append(math.sqrt(outputs / patches) / np.linalg.norm(weight))
    singular = np.linalg.svd(weight.reshape(6, -1), compute_uv=False)
    assert float(table.cushion) == pytest.approx(min(ratios), rel=SINGLE)
    assert float(table.tensorization_factor) == pytest.approx(singular.sum(), rel=SINGLE)
    noise = [singular[j:].sum() / (min(ratios) * np.linalg.norm(weight)) for j in range(1, 7)]
    kept = next(j for j, bound in enumerate(noise, 1) if bound <= 0.5)
    assert int(table.components_kept) == kept
    assert float(table.bound) == pytest.approx(noise[kept - 1], rel=SINGLE, abs=SINGLE)
    assert int(table.numbers) == kept * (len(weight) + weight[0].size + 1)


@pytest.mark.parametrize("kind", ["matrix", "cp", "hierarchical"])
@pytest.mark.parametrize("error", [0.01, 0.3, 0.9])
def test_no_output_moves_by_more_than_the_bound(kind, error):
    plain = nn.Sequential(nn.Conv1d(3, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(48, 5))
    deep = rl.nn.overparameterize(plain, kind=kind, init=0.3)
    x = torch.randn(7, 3, 6)
    table = rl.nn.compressibility(deep, x, error=error)
    assert table.layer.values.tolist() == ["0", "3"]
    assert bool((table.bound <= error).all())
    assert bool((table.change <= table.bound).all())
    assert bool((table.cushion <= 1 + SINGLE).all())
    assert bool((table.components_kept >= 1).all())
    assert bool((table.norm <= table.tensorization_factor * (1 + SINGLE)).all())


def test_components_of_a_cp_layer_are_its_outer_products():
    deep = rl.nn.overparameterize(nn.Conv2d(2, 4, 3, bias=False), kind="cp", width=5, init=1.0)
    net = deep.composition.network
    table = rl.nn.compressibility(deep, torch.randn(3, 2, 5, 5)).isel(layer=0)
    assert int(table.components) == 5
    assert float(table.tensorization_factor) == pytest.approx(
        float(net.component_norms("r").detach().sum()), rel=SINGLE
    )
    assert int(table.numbers) == int(table.components_kept) * (4 + 2 + 3 + 3 + 1)


def test_what_has_no_row_is_named():
    class Wide(nn.Module):
        def __init__(self):
            super().__init__()
            self.table, self.used, self.idle = nn.Embedding(4, 6), nn.Linear(6, 6), nn.Linear(6, 6)
            self.ring = nn.Conv1d(6, 6, 3, padding=1, padding_mode="circular")
            self.normed = nn.utils.spectral_norm(nn.Linear(6, 6))

        def forward(self, ids):
            return self.ring(self.used(self.table(ids)).mT)

    table = rl.nn.compressibility(Wide(), torch.tensor([[0, 1, 2]]))
    assert table.layer.values.tolist() == ["used"]
    assert list(table.skipped) == ["table", "ring", "normed", "idle"]
    assert "circular" in table.skipped["ring"]
    with pytest.raises(ValueError, match="no layer can be measured"):
        rl.nn.compressibility(nn.Embedding(4, 6), torch.tensor([[0]]))
    for error in (0, 1, math.nan):
        with pytest.raises(ValueError, match=f"error is {error}"):
            rl.nn.compressibility(nn.Linear(2, 2), torch.ones(1, 2), error=error)


def test_samples_and_weights_of_zeros_and_single_rows():
    layer = nn.Linear(3, 3)
    table = rl.nn.compressibility(layer, torch.zeros(2, 3))
    assert table.attrs["skipped"] == {"": "all its inputs are zero"}
    assert table.sizes["layer"] == 0
    one = rl.nn.compressibility(nn.Conv1d(2, 3, 1), torch.ones(2, 4))  # without an axis of samples
    assert one.sizes["layer"] == 1
    with torch.no_grad():
        layer.weight.zero_()
    table = rl.nn.compressibility(layer, torch.ones(2, 3))
    assert table.attrs["skipped"] == {"": "its weight or an output is zero, so that no relative error is defined"}
    table = rl.nn.compressibility(nn.Linear(3, 3), torch.tensor([[1.0, math.nan, 1.0], [1.0, 1.0, 1.0]]))
    assert "not finite" in table.attrs["skipped"][""]
