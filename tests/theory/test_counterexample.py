"""Bounds in the counterexample, against all matrices of a loss and against flows."""

import numpy as np
import pytest
import torch

import ranklens as rl


def matrices(loss, w12, w21, w22, count, seed=0):
    """Random 2 x 2 matrices whose observed entries have exactly a loss, with unobserved entries of all sizes."""
    made = torch.Generator().manual_seed(seed)
    off = torch.randn(count, 3, generator=made, dtype=torch.float64)
    off *= (2 * loss) ** 0.5 / off.norm(dim=1, keepdim=True)
    size = 10 ** (6 * torch.rand(count, generator=made, dtype=torch.float64) - 2)
    w11 = size * torch.randn(count, generator=made, dtype=torch.float64)
    rest = torch.tensor([w12, w21, w22], dtype=torch.float64) + off
    return torch.stack([w11, *rest.T], dim=1).reshape(-1, 2, 2)


@pytest.mark.parametrize("loss", [0.3, 1e-2, 1e-5])
def test_bounds_hold_for_every_matrix_of_positive_determinant(loss):
    W = matrices(loss, 1.0, 1.0, 0.0, 20_000)
    W = W[torch.linalg.det(W) > 0]
    assert len(W) > 100
    bounds = rl.theory.bounds_2x2(loss)
    assert bool((W[:, 0, 0].abs() >= bounds.w11).all())
    assert bool((torch.linalg.svdvals(W)[:, 1] <= bounds.sigma2).all())
    assert bool((rl.effective_rank(W) <= bounds.effective_rank).all())


@pytest.mark.parametrize("eps", [0.3, -0.3, 0.05, -0.05, 0.0])
@pytest.mark.parametrize(("z", "z2"), [(1.0, 1.0), (-2.0, 0.5), (-1.0, -1.0)])
def test_the_perturbed_bound_holds_for_either_sign_of_eps(eps, z, z2):
    """It is a bound on a size, so it is never negative, and depends on the size of eps only."""
    for loss in (1e-2, 1e-4):
        W = matrices(loss, z, z2, eps, 20_000)
        W = W[torch.linalg.det(W) * z * z2 > 0]
        bound = rl.theory.unobserved_bound(loss, z=z, z2=z2, eps=eps)
        assert float(bound) == float(rl.theory.unobserved_bound(loss, z=z, z2=z2, eps=-eps)) > 0
        assert bool((W[:, 0, 0].abs() >= bound).all())


@pytest.mark.parametrize("eps", [0.2, -0.2])
def test_the_perturbed_bound_tends_to_the_matrix_of_rank_one(eps):
    assert float(rl.theory.unobserved_bound(1e-20, eps=eps)) == pytest.approx(1 / abs(eps), rel=1e-8)


def test_bounds_take_arrays():
    losses = np.array([0.1, 1e-3])
    assert rl.theory.bounds_2x2(losses).w11.shape == (2,)
    assert rl.theory.unobserved_bound(losses.tolist()).shape == (2,)


def test_bounds_are_about_positive_real_losses():
    for bound in (rl.theory.bounds_2x2, rl.theory.unobserved_bound):
        with pytest.raises(ValueError, match=r"loss is -1\.0; the bounds hold for positive"):
            bound(-1.0)
        with pytest.raises(TypeError, match="complex"):
            bound(torch.ones(2) * (1 + 1j))


def test_the_determinant_of_solutions_is_that_of_any_solution():
    task = rl.Completion.counterexample(d=3, z=2.0, eps=0.5)
    found = rl.theory.solution_determinant(task)
    for w in (-1.0, 0.0, 2.5):
        W = torch.zeros(3, 3, dtype=torch.float64)
        W[tuple(task.indices.T)] = task.values
        W[0, 0] = w
        assert float(torch.linalg.det(W)) == pytest.approx(found.constant + w * found.cofactor)
    assert found.drives_to_infinity == 0
    assert rl.theory.solution_determinant(rl.Completion.counterexample(z=-1.0)).drives_to_infinity == -1


@pytest.mark.parametrize("position", [(0, 1), (1, 1), (2, 1), (1, 2)])
def test_any_entry_may_be_the_unobserved_one(position):
    """The cofactor has the sign of its position: the determinant is affine in the entry, wherever it is."""
    W = torch.randn(3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    observed = [list(at) for at in np.ndindex(3, 3) if at != position]
    found = rl.theory.solution_determinant(rl.Completion(observed, [float(W[tuple(at)]) for at in observed], (3, 3)))
    for w in (-2.0, 0.0, 3.0):
        W[position] = w
        assert float(torch.linalg.det(W)) == pytest.approx(found.constant + w * found.cofactor)
