"""The audit's parts: which steps follow the flow, and in which order a spectral optimizer learns."""

import numpy as np
import pytest
import torch

import ranklens as rl
from ranklens.studies.laws import optimizers

SETTINGS = optimizers.Settings(size=8, seeds=(0,))
# Singular values beyond the rank of a matrix of norm 11: rounding leaves about 1e-15 of it.
ROUNDING = 1e-12
# Steps by which the predicted time may be off: the first one, and the last one to within 1% of the target.
STEPS = 4
# Distance from the limit 1/4 at the learning rates of the study.
NEAR = 0.1


def test_the_fully_observed_matrix_has_the_singular_values_of_the_settings():
    task = optimizers.seen(SETTINGS, 3)
    s = np.linalg.svd(task.target.numpy(), compute_uv=False)
    assert s[:3].tolist() == pytest.approx([10.0, 5.0, 2.0])
    assert (s[3:] < ROUNDING).all()
    assert len(task) == 64


@pytest.mark.parametrize("name", ["descent", "GroupRMSprop", "Adam", "sign", "spectral"])
def test_drift_vanishes_with_the_step_for_those_that_follow_the_flow(name):
    shrink = optimizers._shrink(SETTINGS, name)
    if name in optimizers.FOLLOW:
        assert shrink == pytest.approx(0.25, abs=NEAR)
    else:
        assert shrink > 0.5


def test_a_spectral_step_grows_every_singular_value_alike():
    """From balanced factors along the target's directions, sqrt(s) grows by lr a step: time sqrt(target) / lr."""
    target = torch.diag(torch.tensor([9.0, 4.0, 1.0], dtype=torch.float64))
    task = rl.Completion.sample(target, 9, loss="half_sse")
    net = rl.init.product_(rl.deep_matrix((3, 3), depth=2), 1e-12 * torch.eye(3, dtype=torch.float64))
    track = {"s": lambda net: net.tensor().diagonal()}
    run = rl.gradient_descent(
        net, task, rl.optim.Spectral(net.parameters(), lr=1e-2), steps=320, every=1, until_loss=0.0, track=track
    )
    for k, value in enumerate([9.0, 4.0, 1.0]):
        at = int((run.s.values[:, k] >= value * 0.99).argmax())
        assert at == pytest.approx(np.sqrt(value) / 1e-2, abs=STEPS)
