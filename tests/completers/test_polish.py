import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from completion_cases import everything, observed, planted

import ranklens as rl
from ranklens.completers.biases import fit_biases, no_biases
from ranklens.completers.candidates import make_candidates, matrix_candidates
from ranklens.completers.polish import RIDGES, Choice, Fit, Polish, error, fit, noise_level, residual, tolerated


def polish(X, *, noise):
    """A polish of the whole matrix with noise, from a network of full rank."""
    train, held_out = observed(X).split(0.2, 0)
    net = rl.init.product_(rl.deep_matrix(X.shape, 2), torch.from_numpy(np.nan_to_num(X)))
    unit = noise_level(train, noise, 2)
    made = make_candidates(net, train, held_out, noise_level=unit, factor=tolerated(held_out))
    return Polish(made, train, held_out, no_biases(X.shape), unit)


def test_the_search_finds_the_planted_rank():
    X, _ = planted((30, 25), 2, 0.8, noise=0.1)
    search = polish(X, noise=0.1)
    choice = search.search()
    assert search.candidates.networks[choice.size].layout.sizes["r"] == 2
    assert choice.ridge in RIDGES
    best = min(search.errors.values())
    assert search.errors[choice] <= tolerated(search.held_out) * best
    assert search.errors[choice] == error(search.fits[choice], search.held_out)


@pytest.mark.parametrize(("second", "noise", "rank"), [(0.1, 0.0, 2), (0.0, 0.1, 1)])
def test_components_that_have_not_grown_must_be_far_better(second, noise, rank):
    made = np.random.default_rng(0)
    U, V = np.linalg.qr(made.normal(size=(30, 2)))[0], np.linalg.qr(made.normal(size=(20, 2)))[0]
    whole = 25 * (U * [1.0, second]) @ V.T
    X = np.where(made.random(whole.shape) < 0.8, whole + noise * made.normal(size=whole.shape), np.nan)
    train, held_out = observed(X).split(0.2, 0)
    start = torch.from_numpy(25 * (U * [1.0, 1e-3]) @ V.T)  # the second component has not grown
    candidates = matrix_candidates(rl.init.product_(rl.deep_matrix(whole.shape, 2), start))
    search = Polish(candidates, train, held_out, no_biases(whole.shape), noise_level(train, 0.1, 2))
    choice = search.search()
    assert {candidate.layout.sizes["r"] for candidate in candidates.networks[: candidates.grown]} == {2, 3}
    assert candidates.networks[choice.size].layout.sizes["r"] == rank
    assert any(tried.size < candidates.grown for tried in search.errors)


@pytest.mark.parametrize(("errors", "rank"), [([5.0, 4.0, 0.02, 0.05, 0.03, 1e-7], 1), ([5.0, 0.1, 0.02, 0.05], 2)])
def test_the_search_passes_over_two_sizes_that_look_worse(errors, rank, monkeypatch):
    """Fits of too many components may not have converged. The errors are those of the ranks from large to small."""
    net = rl.init.product_(rl.deep_matrix((8, 8), 2), torch.diag(torch.tensor([8.0, 7, 6, 5, 1, 1, 1, 1]).double()))
    made = matrix_candidates(net)
    candidates = replace(made, networks=made.networks[-len(errors) :], begin=2, grown=0)

    def known(self, choice):
        return self.errors.setdefault(choice, errors[choice.size] * (1 + choice.ridge))

    monkeypatch.setattr(Polish, "error", known)
    train, held_out = observed(np.eye(8)).split(0.2, 0)
    choice = Polish(candidates, train, held_out, no_biases((8, 8)), 1.0).search()
    assert candidates.networks[choice.size].layout.sizes["r"] == rank


def test_an_error_is_measured_once_per_choice():
    X, _ = planted((12, 10), 1, 0.9, noise=0.1)
    search = polish(X, noise=0.1)
    choice = Choice(len(search.candidates.networks) - 1, 1.0)
    first = search.error(choice)
    made = search.fits[choice]
    assert search.error(choice) == first
    assert search.fits[choice] is made
    assert search.best() == choice


def test_fits_of_network_and_biases_add_up(tolerance):
    """Rows, columns and a component: what is left is nothing, and it is what network and biases leave together."""
    net = rl.cp((8, 7), 1, std=1.0)
    rows, columns = torch.arange(8).double(), torch.arange(7).double()
    whole = everything(net.tensor().detach() + rows[:, None] - 2 * columns)
    made = fit(rl.cp((8, 7), 2, std=1.0, seed=1), whole, fit_biases(whole, 0.0), ridge=0.0)
    assert error(made, whole) < 1e-2
    literal = whole.values - made.biases.at(whole.indices) - made.net.entries(whole.indices).detach()
    assert torch.allclose(residual(made, whole).values, literal, atol=tolerance["rounding"])
    assert error(made, whole) == pytest.approx(float(literal.square().mean().sqrt()))


def test_a_ridge_at_the_noise_level_keeps_nothing_of_noise():
    """Half of the level keeps some of the noise; a little more than the level, hardly anything of that."""
    made = np.random.default_rng(0)
    train = observed(made.standard_normal((60, 50)))
    level = noise_level(train, 1.0, 2)
    kept = {}
    for share in (0.5, 1.2):
        net = matrix_candidates(rl.deep_matrix((60, 50), 2, 5, std=1.0)).networks[0]
        kept[share] = float(fit(net, train, no_biases((60, 50)), ridge=share * level).net.tensor().detach().norm())
    assert kept[1.2] < 0.02 * kept[0.5]


def test_errors_are_told_apart_by_a_quarter_of_their_standard_error():
    assert tolerated(everything(torch.zeros(10, 10).double())) == pytest.approx(1 + 0.25 / math.sqrt(100))


def test_a_network_without_biases_predicts_its_entries():
    net = rl.cp((3, 3), 1, std=1.0)
    assert error(Fit(net, no_biases((3, 3))), everything(net.tensor())) < 1e-12
