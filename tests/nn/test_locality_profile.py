"""Profiles end where kernels do, repeat, and show what training changes beside an untrained network."""

import numpy as np
import pytest
import torch
from torch import nn

import ranklens as rl
from ranklens import seeds

pytestmark = pytest.mark.usefixtures("initial_values")
# Outputs of a float32 network in batches of other sizes differ by rounding, and a profile divides small differences.
BATCHES = 1e-3


def inputs(count, *shape, seed=0):
    return torch.randn(count, *shape, generator=seeds.stream(seed, "inputs of a test"), dtype=torch.float64)


def test_profiles_end_where_kernels_do():
    """Two layers of 3 x 3 before a mean couple what a 5 x 5 window covers: pixels with at most three between."""
    local = [nn.Conv2d(1, 4, 3), nn.Tanh(), nn.Conv2d(4, 4, 3), nn.Tanh()]
    model = nn.Sequential(*local, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)).double()
    found = rl.nn.locality_profile(model, inputs(30, 1, 12, 12), size=1, pairs=12)
    assert found.distance.values.tolist() == list(range(11))
    for network in ("trained", "random"):
        values = found.interaction.sel(network=network).values
        assert (values[:4] > 0).all()
        assert (values[4:] == 0).all()
    assert (found.share >= 0).all()
    assert (found.share <= 1).all()
    assert (found.effective_rank.sel(distance=slice(4, None)) == 0).all()


def test_profiles_repeat_and_show_training():
    x = inputs(40, 1, 8, 8).float()
    product = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.Tanh(), nn.Linear(16, 1))
    before = {name: value.clone() for name, value in product.state_dict().items()}
    first, again = (rl.nn.locality_profile(product, x, size=2, distances=[0, 4], pairs=3) for _ in range(2))
    assert first.identical(again)
    assert all(torch.equal(value, before[name]) for name, value in product.state_dict().items())
    for parameter in product.parameters():
        parameter.data *= 5
    trained = rl.nn.locality_profile(product, x, size=2, distances=[0, 4], pairs=3)
    assert trained.interaction.sel(network="random").equals(first.interaction.sel(network="random"))
    assert (trained.interaction.sel(network="trained") > first.interaction.sel(network="trained")).all()
    assert rl.nn.locality_profile(product, x, control=False, pairs=1).network.values.tolist() == ["trained"]


def test_the_control_may_be_ones_own_and_batches_change_nothing():
    model, own = (nn.Sequential(nn.Flatten(), nn.Linear(64, 4), nn.Tanh(), nn.Linear(4, 2)) for _ in range(2))
    x = inputs(20, 1, 8, 8).float()
    found = rl.nn.locality_profile(model, x, pairs=2, control=own)
    swapped = rl.nn.locality_profile(own, x, pairs=2, control=model, batch_size=3)
    for name in ("interaction", "share", "effective_rank"):
        one, other = found[name].sel(network="trained"), swapped[name].sel(network="random")
        assert np.allclose(one, other, rtol=BATCHES)


def test_parameters_without_a_module_that_resets_them_are_drawn_anew():
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.full((64,), 3.0))

        def forward(self, x):
            return (x.flatten(1) * self.weight).sum(dim=1).square()

    found = rl.nn.locality_profile(Own(), inputs(10, 1, 8, 8).float(), pairs=2)
    assert (found.interaction > 0).all()


def test_profiles_are_drawn_and_refuse_what_has_no_room():
    model, x = nn.Sequential(nn.Flatten(), nn.Linear(64, 1)), inputs(10, 1, 8, 8).float()
    made = rl.plot(rl.nn.locality_profile(model, x, pairs=1))
    assert made.axes[0].get_title(loc="left") == "interaction"
    assert {line.get_label() for line in made.axes[0].lines} == {"trained", "random"}
    for change, message in (
        ({"data": x[:1]}, "give two images"),
        ({"pairs": 0}, "0 pairs"),
        ({"size": 7}, "there is none at which two patches of 7 x 7 fit 8 x 8"),
        ({"distances": [9]}, "has no room"),
        ({"distances": []}, "distances is empty, or there is none"),
    ):
        with pytest.raises(ValueError, match=message):
            rl.nn.locality_profile(model, **{"data": x, **change})
