"""Tasks, priors, cases and claims of the study, against the definitions and planted records."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from ranklens import studies
from ranklens.studies.beyond import volume as study
from ranklens.tensors.random_product import random_product

# Relative error of a mean of ten thousand squared normal numbers, and of shares of them.
DRAWN = 0.05
# Training loss at which descent with a learning rate of .02 settles: of the order of its square.
FLOOR = 1e-3


@pytest.fixture(scope="module")
def record():
    return studies.perform("volume", study.PRESETS["tiny"])


def test_measurements_and_their_complement(tolerance):
    settings = study.Settings(size=4, measurements=6)
    of = study.task(settings, 3)
    close = {"atol": tolerance["rounding"]}
    assert torch.allclose(of.A.norm(dim=1), torch.ones(6, dtype=torch.float64), **close)
    assert torch.allclose(of.B @ of.B.T, torch.eye(10, dtype=torch.float64), **close)
    assert torch.allclose(of.B @ of.A.T, torch.zeros(10, 6, dtype=torch.float64), **close)
    W = torch.linalg.lstsq(torch.cat([of.A, of.B]), torch.cat([of.y, of.unmeasured])).solution.reshape(4, 4)
    s = torch.linalg.svdvals(W)
    assert torch.allclose(s, torch.tensor([1.0, 0, 0, 0], dtype=torch.float64), **close)
    assert float(study.unmeasured_error(W[None], of)) < tolerance["rounding"]
    zero = study.unmeasured_error(torch.zeros_like(W)[None], of)
    assert float(zero) == pytest.approx(float(of.unmeasured.square().mean()))


@pytest.mark.parametrize("prior", study.PRIORS)
def test_the_error_of_a_draw_by_many_draws(prior):
    settings = study.Settings()
    of = study.task(settings, 0)
    product = random_product((5, 5), 3, 7, normalized=prior == "normalized")
    z = torch.randn(10_000, product.size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = float(study.unmeasured_error(product.matrices(z), of).mean())
    assert found == pytest.approx(study.prior_error(5, prior, float(of.unmeasured.square().mean())), rel=DRAWN)


def test_accepted_guesses_fit():
    settings = dataclasses.replace(study.PRESETS["tiny"], members=50)
    of = study.task(settings, 0)
    prior = random_product((5, 5), 2, 40)
    found = study.accepted(settings, prior, of, 0.02, 0)
    errors = (prior.matrices(found.draws).double().flatten(1) @ of.A.T - of.y).square().mean(1)
    assert float(errors.max()) <= 0.02 * (1 + DRAWN)
    assert 0 < found.probability < 1e-3


def test_descent_from_a_small_start_recovers_and_members_do_not_influence_each_other():
    settings = study.Settings(lr=0.02, steps=200, seeds=(0, 1))
    tasks = [study.task(settings, seed) for seed in settings.seeds]
    both = study.descend(settings, 3, 6, tasks)
    zero = [float(one.unmeasured.square().mean()) for one in tasks]
    assert (both["fit"][0] < FLOOR).all()
    assert (both["descent"][0] < 0.1 * np.array(zero)).all()
    assert (both["descent_rank"][0] < both["descent_rank"][1]).all()
    alone = study.descend(dataclasses.replace(settings, seeds=(1,)), 3, 6, tasks[1:])
    for name, values in both.items():
        np.testing.assert_allclose(alone[name][:, 0], values[:, 1], rtol=DRAWN)


def planted(record):
    """Two factors of width 5 and 40, four of width 5; guesses at width 40 as bad as the prior, descent perfect."""
    found = record.copy(deep=True)
    found.zero[:] = 0.04
    found.estimate[:] = [[case.probability * share for share in [0.5, 1.5] * 4] for case in study.CASES.values()]
    found.independent[:] = [0.19, 0.21] * 4
    found.guess.loc[{"prior": "product"}] = np.array([[0.12], [0.24], [0.1]])
    found.guess.loc[{"prior": "normalized"}] = np.array([[0.08], [0.08], [0.02]])
    found.guess_rank.loc[{"prior": "normalized"}] = np.array([[3.0], [4.0], [1.5]])
    found.descent.loc[{"start": "small"}] = 0.002
    found.descent.loc[{"start": "prior"}] = 0.2
    return found


def test_claims_by_hand_and_with_nan(record, tolerance):
    claims = study.claims(planted(record))
    wanted = [0] * 6 + [2.0, 1.0, 0.05, 0.25, 0.25, 1.0, 5.0]
    assert [claim.measured for claim in claims] == pytest.approx(wanted, abs=tolerance["rounding"])
    assert all(claim.holds for claim in claims)
    for name, place, fails in (
        ("guess", {"prior": "product", "network": 1}, [6, 7]),
        ("guess", {"prior": "normalized", "network": 2}, [9]),
        ("descent", {"start": "small", "network": 1}, [8]),
        ("estimate", {"case": "a product of width two", "check_run": 0}, [2]),
        ("independent", {"check_run": 3}, [5]),
    ):
        poisoned = planted(record)
        poisoned[name].loc[place] = math.nan
        assert [k for k, claim in enumerate(study.claims(poisoned)) if not claim.holds] == fails


def test_networks_are_all_widths_at_some_depths_and_the_least_at_others():
    settings = study.Settings(depths=(2, 3), widths=(5, 9), deeper=(7,))
    assert study.networks(settings) == [(2, 5), (2, 9), (3, 5), (3, 9), (7, 5)]
