"""The leading component of the rank-one theorem, and what its study is made of."""

import numpy as np
import pytest
import torch

import ranklens as rl
from ranklens.studies.cp import rank_one

SETTINGS = rank_one.PRESETS["laptop"]
# Relative rounding error of sums over 64 entries, added in Python in another order.
SUMS = 1e-10


def task(seed):
    loss = rl.losses.huber(SETTINGS.threshold)
    return rl.Completion.sample(rank_one.target(SETTINGS, seed), SETTINGS.observed, seed=seed, loss=loss)


@pytest.mark.parametrize("seed", range(5))
def test_the_factor_is_that_of_the_theorem(seed):
    """The Huber loss near zero has slope -delta sign(y) / m at every observed entry."""
    net, problem = rl.cp((4, 4, 4), rank=6, std=1.0, seed=seed), task(seed)
    gradient = np.zeros((4, 4, 4))
    for at, y in zip(problem.indices.tolist(), problem.values.tolist(), strict=True):
        gradient[tuple(at)] = -SETTINGS.threshold * np.sign(y) / SETTINGS.observed
    found = rl.theory.leading_factor(net, problem)
    for r in range(6):
        a, b, c = (node[:, r].detach().numpy() / np.linalg.norm(node[:, r].detach().numpy()) for node in net.nodes)
        aligned = -sum(gradient[i, j, k] * a[i] * b[j] * c[k] for i in range(4) for j in range(4) for k in range(4))
        law = np.linalg.norm(gradient) / aligned if aligned > 0 else np.inf
        assert float(found[r]) == pytest.approx(law, rel=SUMS)


@pytest.mark.parametrize("seed", range(5))
def test_starts_are_balanced_and_led_by_the_factor(seed, tolerance):
    problem = task(seed)
    assert float(problem.values.abs().min()) > SETTINGS.threshold
    net = rank_one.start(SETTINGS, problem, seed)
    assert float(net.imbalance().detach()) < tolerance["rounding"] * float(net.slice_norms("r").detach().max()) ** 2
    norms = net.slice_norms("r")[0].detach()
    leader = int(norms.argmax())
    factor = float(rl.theory.leading_factor(net, problem)[leader])
    assert float(norms[leader]) == pytest.approx(SETTINGS.lead * factor)
    others = torch.cat([norms[:leader], norms[leader + 1 :]])
    assert others.tolist() == pytest.approx([1.0] * 3)


def test_the_order_of_the_tensor_decides_the_power():
    vectors = [torch.ones(2, 1, dtype=torch.float64)] * 4
    net = rl.TensorNetwork("ar,br,cr,dr->abcd", [v.clone() for v in vectors])
    index = torch.zeros(1, 4, dtype=torch.long)
    problem = rl.Completion(index, torch.tensor([5.0]), (2,) * 4, loss=rl.losses.huber(0.1))
    assert float(rl.theory.leading_factor(net, problem)) == pytest.approx((1 / 2**-2) ** (1 / 2))
    negative = rl.Completion(index, torch.tensor([-5.0]), (2,) * 4, loss=rl.losses.huber(0.1))
    assert float(rl.theory.leading_factor(net, negative)) == float("inf")


def test_other_networks_are_refused():
    matrix = rl.Completion.counterexample()
    with pytest.raises(ValueError, match="is no CP of order 3 or more"):
        rl.theory.leading_factor(rl.cp((2, 2), rank=2), matrix)
    with pytest.raises(ValueError, match="is no CP"):
        rl.theory.leading_factor(rl.deep_matrix((2, 2), depth=3), matrix)


def test_the_slope_of_a_power_law():
    record = rank_one.run(rank_one.PRESETS["tiny"])
    alpha = record.alpha.values
    record["component"] = (record.component.dims, np.ones(record.component.shape))
    record["component"].values[..., 1] = 7 * alpha[:, None] ** 3
    assert rank_one.slope(record) == pytest.approx(3.0)
