"""Layers that are fitted one after the other."""

import pytest
import torch
from layer_cases import SAME, batch, off
from torch import nn

import ranklens as rl
from ranklens.nn import refit

pytestmark = pytest.mark.usefixtures("initial_values")
# Error that the ridge of the regression leaves, relative to the output: about its size, 1e-4 of a variance.
RIDGE_LEFT = 2e-3


def net():
    """A network whose first layer loses much, and whose second has outputs from which the loss can be mended."""
    layers = [nn.Linear(12, 16), nn.Tanh(), nn.Linear(16, 6), nn.Tanh(), nn.Linear(6, 4)]
    made = nn.Sequential(*layers).double()
    with torch.no_grad():
        made[0].weight.mul_(3)
    return made


X = batch(400, 12)


def mean_error(model, plain, x=X):
    return float((model(x) - plain(x)).square().mean().detach())


def test_layers_in_order_are_better_than_layers_by_themselves():
    plain = net()
    errors = {order: mean_error(rl.nn.compress(plain, rank=4, data=X, order=order).model, plain) for order in rl_orders}
    assert errors["sequential"] < 0.9 * errors["outputs"]


rl_orders = ("sequential", "outputs")


def test_the_fit_is_reduced_rank_regression_on_the_new_inputs():
    """The second layer of rank 4 is the best of its rank on the inputs that the cut first layer gives."""
    plain = net()
    found = rl.nn.compress(plain, rank=4, data=[X[:150], X[150:]])
    hidden, target = torch.tanh(found.model[0](X)).detach(), plain[2](torch.tanh(plain[0](X))).detach()
    H, Y = hidden - hidden.mean(0), target - target.mean(0)
    B = torch.linalg.lstsq(H, Y).solution
    U = torch.linalg.svd(H @ B).Vh[:4].T
    best = float((Y - H @ B @ U @ U.T).square().mean())
    error = float((found.model[2](hidden) - target).square().mean().detach())
    assert best <= error <= best * 1.001
    row = found.table.sel(layer="2")
    assert float(row.output_error) == pytest.approx((error / float(target.square().mean())) ** 0.5, rel=RIDGE_LEFT)


@pytest.mark.parametrize("bias", [True, False])
def test_layers_that_are_not_cut_are_fitted_too(bias):
    layers = [nn.Linear(12, 12), nn.Linear(12, 3, bias=bias)]
    plain = nn.Sequential(*layers).double()
    found = rl.nn.compress(plain, rank=4, data=X)
    assert found.table.rank_kept.values.tolist() == [4, 3]
    assert str(found.table.reason[1].item()).endswith("its weight is fitted to the new inputs")
    assert found.table.parameters_kept.values.tolist() == [4 * 24, 36]
    hidden = found.model[0](X).detach()
    ones = torch.ones(len(X), 1, dtype=torch.float64)
    wide = torch.cat([hidden, ones], 1) if bias else hidden
    best = wide @ torch.linalg.lstsq(wide, plain(X).detach()).solution
    assert off(found.model(X), best) <= RIDGE_LEFT
    assert float(found.table.error[1]) > 0
    same = rl.nn.compress(plain, rank=4, data=X, order="outputs")
    assert torch.equal(same.model[1].weight, plain[1].weight)


def test_wide_inputs_are_fitted_through_the_outputs(monkeypatch):
    plain = net()
    monkeypatch.setattr(refit, "MOST_INPUTS", 1)
    narrow = rl.nn.compress(plain, rank=4, data=X)
    monkeypatch.undo()
    wide = rl.nn.compress(plain, rank=4, data=X)
    alone = rl.nn.compress(plain, rank=4, data=X, order="outputs")
    errors = [mean_error(found.model, plain) for found in (wide, narrow, alone)]
    assert errors[0] < errors[2]
    assert errors[1] < errors[2]
    # The weight of the fit is a matrix times the weight of the plain layer, so its rows stay in the same space.
    rows = torch.linalg.qr(plain[2].weight.detach().T).Q
    found = narrow.model[2].weight.detach()
    assert off(found @ rows @ rows.T, found) <= SAME


def test_equal_inputs_are_fitted_in_one_pass_and_shared_layers_over_all_calls():
    layer = nn.Linear(12, 12).double()
    plain = nn.Sequential(layer, nn.Tanh(), layer, nn.Tanh(), nn.Linear(12, 8).double())
    found = rl.nn.compress(plain, rank=4, data=X)
    assert found.model[0] is found.model[2]
    assert list(found.table.layer.values) == ["0", "4"]


def test_a_function_must_run_on_the_same_data():
    sizes = iter([100, 90, 80, 70, 60, 50])
    with pytest.raises(ValueError, match="ran on other data than before"):
        rl.nn.compress(net(), rank=2, data=lambda model: model(X[: next(sizes)]))
    found = rl.nn.compress(net(), rank=2, data=lambda model: (model(X[:200]), model(X[200:]))[1])
    assert float(found.table.attrs["output_error"]) > 0


def test_layers_of_a_registered_class_are_not_fitted(monkeypatch):
    monkeypatch.setattr("ranklens.nn.layer_kinds._registered", {})

    class Own(nn.Linear):
        pass

    rl.nn.register_layer(Own)
    plain = nn.Sequential(nn.Linear(12, 12), Own(12, 3)).double()
    found = rl.nn.compress(plain, rank=4, data=X)
    assert torch.equal(found.model[1].weight, plain[1].weight)
    assert "fitted" not in str(found.table.reason[1].item())
