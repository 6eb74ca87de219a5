"""Training losses with and without the penalty, and the claims on them."""

import dataclasses
import math

import numpy as np
import pytest

import ranklens as rl
from ranklens import studies
from ranklens.studies.kit.agreement import agreement
from ranklens.studies.layers import penalty_trap as study


@pytest.fixture(scope="module")
def record():
    return studies.perform("penalty_trap", dataclasses.replace(study.PRESETS["tiny"], seeds=(0, 1, 2)))


@pytest.mark.slow
def test_without_the_penalty_the_tensor_is_fitted_and_with_it_not():
    found = study.run(dataclasses.replace(study.PRESETS["tiny"], weights=(0.0, 0.1), steps=480))
    left = study.remaining(found).sel(initial="small", seed=0)
    assert float(left.sel(weight=0.0)) < 0.01
    assert float(left.sel(weight=0.1)) > 0.99


def test_the_first_loss_is_the_one_at_the_start(record, tolerance):
    for initial, std in study.INITIAL.items():
        for seed in (0, 2):
            task = rl.Completion.sample(agreement(5, (0, 1)), 300, seed=seed)
            net = rl.hierarchical((5,) * 4, 25, rl.ModeTree.adjacent(4), std=std, seed=seed)
            expected = float(task.loss(net).detach())
            first = record.loss.sel(initial=initial, seed=seed).isel(step=0)
            assert np.allclose(first, expected, rtol=tolerance["rounding"])
    assert (record.effective_rank >= 1).all()


def test_claims_are_medians_over_the_seeds(record):
    planted = record.copy(deep=True)
    planted.loss.loc[{"step": 0}] = 2.0
    planted.loss.loc[{"step": 3, "weight": 0.0}] = 0.02
    planted.loss.loc[{"step": 3, "weight": 1.0, "initial": "small"}] = [1.0, 0.4, 1.6]
    planted.loss.loc[{"step": 3, "weight": 1.0, "initial": "order one"}] = [0.02, 0.02, 2.0]
    small, of_order_one = study.claims(planted)
    assert "0.05" in small.statement
    assert small.measured == pytest.approx(50)
    assert small.holds
    assert "0.3" in of_order_one.statement
    assert of_order_one.measured == pytest.approx(1)
    assert not of_order_one.holds
    planted.loss.loc[{"step": 3, "weight": 0.0, "initial": "small", "seed": 1}] = math.nan
    assert math.isnan(study.claims(planted)[0].measured)


@pytest.mark.parametrize("weights", [(0.1, 1.0), (0.0,)])
def test_weights_without_a_baseline_or_without_a_penalty_are_refused(weights):
    with pytest.raises(ValueError, match="the first must be 0, and at least one must follow"):
        study.run(dataclasses.replace(study.PRESETS["tiny"], weights=weights))
