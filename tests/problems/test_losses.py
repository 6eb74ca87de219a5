"""Losses: which of them have a gradient flow, and what they are made from. test_problem.py tests their values."""

import pytest
import torch

import ranklens as rl
from ranklens.problems import losses

VALUES = torch.tensor([-1.3, 0.0, 0.7, 1e6], dtype=torch.float64)

SMOOTH = {
    "square": lambda p, v: (p - v) ** 2,
    "cube": lambda p, v: (p - v) ** 3,
    "linear": lambda p, v: 3 * p - v,
    "power 3/2": lambda p, v: (p - v).abs() ** 1.5,
    "logistic": lambda p, v: torch.nn.functional.softplus(-p * v),
    "weighted": lambda p, v: torch.arange(4, dtype=torch.float64) * (p - v) ** 2,
    "constant": lambda p, v: torch.ones_like(v),
    "huber": lambda p, v: torch.nn.functional.huber_loss(p, v, reduction="none"),
}
JUMPING = {
    "absolute": lambda p, v: (p - v).abs(),
    "tilted": lambda p, v: torch.maximum(0.9 * (p - v), 0.1 * (v - p)),
    "square and absolute": lambda p, v: (p - v) ** 2 + 0.01 * (p - v).abs(),
    "somewhere": lambda p, v: torch.where(v == 0.7, (p - v).abs(), (p - v) ** 2),
}


@pytest.mark.parametrize("name", SMOOTH)
def test_a_continuous_derivative_is_found_smooth(name):
    assert losses.resolve(SMOOTH[name], VALUES).smooth


@pytest.mark.parametrize("name", JUMPING)
def test_a_jump_of_the_derivative_is_found(name):
    assert not losses.resolve(JUMPING[name], VALUES).smooth


def test_a_flow_of_an_own_loss_that_jumps_is_refused():
    task = rl.Completion([[0, 0], [1, 1]], [1.0, 2.0], (2, 2), loss=JUMPING["absolute"])
    with pytest.raises(ValueError, match="discontinuous gradient"):
        rl.gradient_flow(rl.deep_matrix((2, 2), depth=2), task)


def test_an_own_loss_in_inference_mode():
    with torch.inference_mode():
        task = rl.Completion([[0, 0], [1, 1]], [1.0, 2.0], (2, 2), loss=SMOOTH["square"])
    assert task.objective.smooth


def test_a_declared_loss_is_taken_as_declared():
    declared = losses.Loss("mine", JUMPING["absolute"], smooth=True)
    assert losses.resolve(declared, VALUES) is declared


def test_presets_by_name():
    for name, loss in losses.PRESETS.items():
        assert losses.resolve(name, VALUES) is loss
    assert [name for name, loss in losses.PRESETS.items() if not loss.smooth] == ["l1"]
