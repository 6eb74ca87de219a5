"""Components that wait for each other are counted with one exception, and the rank is read off the last norms."""

import dataclasses
import json
import math

import numpy as np
import pytest
import torch

from ranklens import studies
from ranklens.studies.cp import tensor_dynamics as study

SETTINGS = study.PRESETS["tiny"]


@pytest.fixture(scope="module")
def record():
    return studies.perform("tensor_dynamics", SETTINGS)


@pytest.mark.parametrize(("delay", "share"), [(3, 1.0), (0, 0.0)])
def test_components_that_wait_for_each_other_count_and_others_do_not(record, delay, share):
    """Two component norms are steps from 0 to 1; the second one comes `delay` rows after the first."""
    drawn = record.copy(deep=True)
    row = np.arange(drawn.sizes["row"])
    drawn["component"].values[:] = 1e-6
    drawn["component"].values[0, :, :2] = np.stack([np.clip(row - 5, 0, 1), np.clip(row - 5 - delay, 0, 1)], axis=1)
    waiting, rank = study.claims(drawn)[2:4]
    assert waiting.measured == share
    assert rank.measured == pytest.approx(1e-6)


def test_the_flow_ends_at_its_loss_with_as_many_components_as_the_target(record, tolerance):
    assert float(record.loss[0, -1]) == pytest.approx(SETTINGS.until_loss, rel=tolerance["flow"])
    final = np.sort(record.component.values[0, -1])[::-1]
    assert final[SETTINGS.rank] < 0.1 * final[SETTINGS.rank - 1]


@pytest.mark.parametrize(("power", "holds"), [(3.0, True), (3.29, True), (3.4, False), (2.0, False)])
def test_the_power_law_of_the_gap_is_fitted_to_small_scales_alone(record, power, holds):
    drawn = record.copy(deep=True)
    drawn["small_gap"].values[:, 0] = 0.2 * drawn.start.values**power
    drawn["small_gap"].values[drawn.start.values > study.LIMIT] = 0.9
    assert study.exponent(drawn) == pytest.approx(power)
    claim = study.claims(drawn)[-1]
    assert claim.measured == pytest.approx(power)
    assert claim.holds is holds
    assert "at 0.001, 0.0001" in claim.statement
    for spoilt in (math.nan, 0.0):
        drawn["small_gap"].values[-1] = spoilt
        assert math.isnan(study.exponent(drawn))


def test_from_a_small_scale_the_claim_of_recovery_is_about_the_worst_seed(record):
    for std, of in ((1e-4, "largest of"), (1e-3, "median of")):
        how = json.dumps(dataclasses.asdict(dataclasses.replace(SETTINGS, std=std)))
        assert of in study.claims(record.assign_attrs(settings=how))[4].statement


@pytest.mark.parametrize("seed", [0, 1])
def test_sensing_observes_inner_products_with_random_tensors(seed, tolerance):
    task = study.problem(dataclasses.replace(SETTINGS, sensing=True), seed)
    operators = task.operators.reshape(SETTINGS.observed, *task.shape)
    for i in (0, 89):
        product = float((operators[i] * task.target).sum())
        assert float(task.values[i]) == pytest.approx(product, abs=SETTINGS.norm * tolerance["rounding"])
    assert 0.9 < 125 * float(operators.square().mean()) < 1.1
    assert torch.equal(task.target, study.problem(SETTINGS, seed).target)


def test_losses_are_named():
    names = {
        loss: study.problem(dataclasses.replace(SETTINGS, loss=loss), 0).objective.name for loss in ("l1", "huber")
    }
    assert names == {"l1": "l1", "huber": "huber(0.1)"}
    with pytest.raises(ValueError, match="loss is 'l3'; choose one of mse, l1, huber"):
        study.problem(dataclasses.replace(SETTINGS, loss="l3"), 0)


@pytest.mark.parametrize(("loss", "until"), [("l1", 0.2), ("huber", 0.02)])
def test_nothing_is_claimed_of_the_conserved_quantities_of_a_descent(loss, until):
    """A descent is no flow; the law of the rates holds at every state."""
    settings = dataclasses.replace(SETTINGS, loss=loss, lr=1e-2, until_loss=until, until_evaluations=3000, stds=())
    made = studies.perform("tensor_dynamics", settings)
    assert made.run_stopped.values.tolist() == ["loss"]
    law, *others = study.claims(made)
    assert law.holds
    assert len(others) == 3
    assert not any("conserved" in claim.statement for claim in others)
    assert len(study.draw(made).axes) == 2
    assert study.draw(made).axes[0].get_xlabel() == "step"
    assert study.alt(made)
