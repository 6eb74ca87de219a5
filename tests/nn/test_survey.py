"""What a run over data finds out about layers."""

import pytest
import torch
from layer_cases import SAME, batch, off
from torch import nn

import ranklens as rl
from ranklens.nn.calibration import Runs, evaluating
from ranklens.nn.decomposition import sites
from ranklens.nn.layer_kinds import input_rows, output_rows
from ranklens.nn.survey import bias_of, by_outputs, survey

pytestmark = pytest.mark.usefixtures("initial_values")


class Branches(nn.Module):
    """Two layers on one input, one that runs twice and one that never runs."""

    def __init__(self):
        super().__init__()
        self.idle, self.last = nn.Linear(4, 4).double(), nn.Linear(6, 4).double()
        self.a, self.b, self.twice = (nn.Linear(4, 6).double() for _ in range(3))

    def forward(self, x):
        return self.last(self.a(x).relu() + self.b(x)) + self.last(self.twice(x.clone()) + self.twice(x + 1))


def surveyed(model, data, measured=None):
    found, _ = sites(model)
    with evaluating(model):
        names = {site.name for site in found} if measured is None else measured
        return {site.name: site for site in found}, survey(model, found, Runs(data), names)


def test_stages_counts_and_places():
    _, found = surveyed(Branches(), [batch(5, 4), batch(2, 4, seed=1)])
    assert found.stages == [["a", "b"], ["last"], ["twice"]]
    assert found.counts == [{"a": 1, "b": 1, "last": 2, "twice": 2}] * 2
    assert found.places == {"a": (7, 7), "b": (7, 7), "last": (14, 14), "twice": (14, 14)}
    assert "idle" not in found.moments
    assert found.multiply_adds("a", None) == 7 * 24
    assert found.multiply_adds("a", 2) == 7 * 2 * 10
    assert found.multiply_adds("idle", None) == 0


def test_moments_are_those_of_the_smaller_side_over_all_calls():
    model, x = Branches(), batch(5, 4)
    found_sites, found = surveyed(model, [x[:2], x[2:]])
    inputs = torch.cat([x, x + 1])
    centred = inputs - inputs.mean(0)
    assert off(found.moments["twice"].covariance[0], centred.T @ centred / 10) <= SAME
    outputs = torch.cat([model.last(model.a(x).relu() + model.b(x)), model.last(model.twice(x) + model.twice(x + 1))])
    assert off(found.moments["last"].mean[0], outputs.mean(0)) <= SAME
    cut = by_outputs(found_sites["last"], found.moments["last"])
    assert cut.cut.total() == pytest.approx(float(outputs.var(0, correction=0).sum().detach()))
    _, counted = surveyed(model, x, measured=())
    assert not counted.moments


def test_transposed_convolutions_multiply_where_they_take_in():
    layer = nn.ConvTranspose1d(4, 6, 3, stride=2, groups=2).double()
    site, found = surveyed(layer, batch(2, 4, 5))
    assert found.places == {"": (10, 22)}
    assert found.multiply_adds("", None) == 10 * 2 * (2 * 9)  # each group maps 2 channels to 3 outputs of 3 places
    assert found.multiply_adds("", 1) == 2 * (10 * 6 + 22 * 3)
    y = layer(batch(2, 4, 5))
    assert input_rows(layer, batch(2, 4, 5), y).shape == (2, 22, 6)
    assert output_rows(layer, y).shape == (2, 22, 3)
    assert bias_of(site[""].form, batch(2, 3, 6)).shape == (2, 3)


def test_outputs_that_are_not_finite_are_named():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)).double()
    x = batch(3, 4)
    x[1, 2] = torch.nan
    with pytest.raises(ValueError, match="outputs of layer '0' on the data are not finite"):
        rl.nn.compress(model, rank=1, data=x)
