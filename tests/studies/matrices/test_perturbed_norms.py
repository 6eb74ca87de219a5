"""The limits, the branch that never fits, and the recipe, on flows of their own."""

import numpy as np
import pytest
import torch
import xarray as xr

import ranklens as rl
from ranklens.studies.kit import starts
from ranklens.studies.matrices import perturbed_norms

EYE = torch.eye(2, dtype=torch.float64)
# Relative distance of |w11| from its limit at a loss of 1e-10.
LIMIT = 2e-3
# Relative tolerance of the solver, by which a flow may violate a bound.
RTOL = 1e-7
# Relative rounding error of a determinant whose terms cancel to a fiftieth of their size.
DETERMINANT = 1e-9


@pytest.mark.parametrize("depth", [3, 4])
@pytest.mark.parametrize("eps", [0.5, 0.1])
@pytest.mark.parametrize(("z", "z2"), [(1.0, 1.0), (-2.0, -0.5), (2.0, 3.0)])
def test_the_limit_and_the_bound_on_the_way(depth, eps, z, z2):
    task = rl.Completion.counterexample(z=z, z2=z2, eps=eps)
    how = {"until_loss": 1e-10, "rtol": RTOL, "track": {"w": lambda W: W[0, 0].abs()}}
    run = rl.end_matrix_flow(1e-6 * EYE, task, depth=depth, **how)
    assert float(run.w[-1]) == pytest.approx(abs(z * z2 / eps), rel=LIMIT)
    bound = rl.theory.unobserved_bound(torch.from_numpy(run.loss.values), z=z, z2=z2, eps=eps).numpy()
    assert (run.w.values >= bound * (1 - RTOL)).all()


def test_the_published_perturbation_needs_a_negative_determinant():
    """z z' < 0: the same limits, from a start whose determinant has that sign."""
    task = rl.Completion.counterexample(z=-2.0, z2=0.5, eps=0.1)
    start = 1e-6 * torch.diag(torch.tensor([1.0, -1.0], dtype=torch.float64))
    run = rl.end_matrix_flow(start, task, depth=3, until_loss=1e-10, rtol=RTOL)
    assert abs(float(run.matrix[0, 0])) == pytest.approx(10.0, rel=LIMIT)


@pytest.mark.parametrize("seed", range(5))
def test_all_solutions_of_the_recipe_share_a_determinant(seed):
    task = perturbed_norms.recipe(4, seed)
    found = rl.theory.solution_determinant(task)
    assert found.cofactor == 0.0
    for w in (-50.0, 0.0, 3.0):
        W = torch.full((4, 4), w, dtype=torch.float64)
        W[tuple(task.indices.T)] = task.values
        assert float(torch.linalg.det(W)) == pytest.approx(found.constant, rel=DETERMINANT)
    assert found.drives_to_infinity == -np.sign(found.constant)


def test_determinants_of_other_problems():
    for d in (2, 3, 5):
        found = rl.theory.solution_determinant(rl.Completion.counterexample(d=d))
        assert (found.constant, found.cofactor, found.drives_to_infinity) == (pytest.approx(-1.0), 0.0, 1)
    free = rl.theory.solution_determinant(rl.Completion.counterexample(eps=0.1))
    assert free.cofactor == pytest.approx(0.1)
    assert free.drives_to_infinity == 0
    indices = torch.tensor([[0, 0]])
    with pytest.raises(ValueError, match="3 entries are unobserved"):
        rl.theory.solution_determinant(rl.Completion(indices, torch.ones(1), (2, 2)))
    with pytest.raises(ValueError, match="determinants are of square matrices"):
        rl.theory.solution_determinant(rl.Completion(indices, torch.ones(1), (2, 3)))


def test_bad_bounds():
    with pytest.raises(ValueError, match=r"loss is 0\.0; .* positive losses"):
        rl.theory.unobserved_bound(0.0)
    with pytest.raises(ValueError, match="must differ from zero"):
        rl.theory.unobserved_bound(0.1, z=0.0)
    assert float(rl.theory.unobserved_bound(0.6)) == 0.0


def test_the_wrong_branch_never_fits():
    """The seed that a float64 determinant would let through: its logarithms are followed, and the loss has a floor."""
    settings = perturbed_norms.PRESETS["tiny"]
    cases = {case["group"]: 0 for case, _ in perturbed_norms._cases(settings)}
    assert {"perturbed", "random start", "larger", "recipe", "depth 2, logarithms"} <= set(cases)
    start = starts.positive_determinant(3, 1e-3, 5).tensor().detach()
    task = rl.Completion.counterexample(eps=0.1)
    run = rl.end_matrix_flow(start, task, depth=3, logarithmic=True, until_loss=1e-8, until_time=1e4)
    assert float(run.matrix[0, 0]) < -100
    assert (run.loss.values > 0.1**2 / 2).all()
    assert (run.sign.values == 1).all()


def test_published_cases_have_both_signs_of_the_determinant_and_the_published_values():
    settings = perturbed_norms.Settings()
    cases = [case for case, _ in perturbed_norms._published(settings)]
    down = [case for case in cases if case["group"] == "published"]
    assert [case["eps"] for case in down] == [0.5, 0.1, 0.05, 0.01, 0.0]
    assert {case["start_sign"] for case in down} == {-1}
    up = [case for case in cases if case["group"] == "published, det > 0"]
    assert [(case["eps"], case["start_sign"]) for case in up] == [(0.1, 1), (0.0, 1)] * 2


def test_the_upper_bound_is_that_of_a_positive_determinant(tolerance):
    """At loss e^2 / 2 with e = 0.1 and eps = 0.2 the bound is 2.1 * 0.6 / 0.1 = 12.6; at e > eps there is none."""
    run = xr.Dataset({"loss": ("row", [1.0, 0.005]), "hole": ("row", [-99.0, -6.3])}, coords={"eps": 0.2})
    assert perturbed_norms._over_upper_bound(run) == pytest.approx(0.5, rel=tolerance["rounding"])
    assert np.isnan(perturbed_norms._over_upper_bound(run.assign(loss=("row", [np.nan, 0.005]))))
    assert np.isnan(perturbed_norms._over_upper_bound(run.isel(row=slice(1))))
