"""The best layers of low rank: their error is the tail of the spectrum, and no competitor is better."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from layer_cases import SAME, batch, off

from ranklens.nn.calibration import Moments
from ranklens.nn.output_cut import (
    cut_of_inputs,
    cut_of_outputs,
    principal_directions,
    reduced_rank_regression,
    regression_without_bias,
)

# Relative error of a regression with this ridge on inputs of a condition number of some hundreds.
SOLVED, SOLVED_SMALL = 1e-6, 1e-8
# Ridge of a regression whose exact solution is known: it changes the solution by about this share.
HARDLY = 1e-13


def layer(outputs=7, inputs=9, directions=9, seed=0, offset=5.0):
    """A layer, and inputs with a large mean that vary in some directions only."""
    weight, bias = batch(outputs, inputs, seed=seed), batch(outputs, seed=seed + 1)
    x = batch(60, directions, seed=seed + 2) @ batch(directions, inputs, seed=seed + 3) + offset
    return weight, bias, x


def moments(rows):
    """Mean and covariance by the literal formulas, with an axis of groups."""
    mean = rows.mean(0)
    return mean[None], ((rows - mean).T @ (rows - mean) / len(rows))[None]


def beside(x, y):
    """Moments of inputs with outputs at their side."""
    found = Moments()
    found.add(x[None], y[None])
    return found


def error(cut, rank, x, y):
    """Mean square error of the layer of a rank on inputs, summed over outputs."""
    first, last, bias = cut.factors(rank)
    return float((x @ (last[0] @ first[0]).T + bias[0] - y).square().sum(1).mean())


def tail(y, rank):
    centred = y - y.mean(0)
    return float(np.square(np.linalg.svd(centred.numpy(), compute_uv=False)[rank:]).sum()) / len(y)


@given(st.integers(1, 7), st.integers(1, 9), st.integers(1, 9), st.integers(0, 6), st.integers(0, 99))
def test_the_error_is_the_tail_of_the_spectrum(outputs, inputs, directions, rank, seed):
    """Also for inputs that span a subspace only, where a whitened method has nothing to invert."""
    weight, bias, x = layer(outputs, inputs, directions, seed)
    y = x @ weight.T + bias
    rank = min(rank, outputs, inputs)
    scale = float(y.square().sum(1).mean())
    for cut in (
        cut_of_outputs(weight[None], bias[None], *moments(y)),
        cut_of_inputs(weight[None], bias[None], *moments(x)),
    ):
        assert error(cut, rank, x, y) == pytest.approx(tail(y, rank), abs=SAME * scale)
        assert float(cut.errors()[rank]) == pytest.approx(tail(y, rank), abs=SAME * scale)
        assert cut.total() == pytest.approx(tail(y, 0), abs=SAME * scale)


def whitened(weight, x, rank):
    """The cut of W S with S the square root of the second moments of the inputs, by its published formula."""
    values, vectors = torch.linalg.eigh(x.T @ x / len(x))
    root, inverse = ((vectors * values.sqrt() ** power) @ vectors.T for power in (1, -1))
    U, s, Vh = torch.linalg.svd(weight @ root, full_matrices=False)
    return (U[:, :rank] * s[:rank]) @ Vh[:rank] @ inverse


def scaled(weight, x, rank):
    """The cut of a weight whose columns are scaled by the mean size of their inputs."""
    size = x.abs().mean(0).sqrt()
    U, s, Vh = torch.linalg.svd(weight * size, full_matrices=False)
    return (U[:, :rank] * s[:rank]) @ Vh[:rank] / size


@pytest.mark.parametrize("rank", [1, 3, 5])
def test_no_competitor_of_the_rank_is_better(rank):
    weight, bias, x = layer(seed=4)
    y = x @ weight.T + bias
    best = error(cut_of_outputs(weight[None], bias[None], *moments(y)), rank, x, y)
    truncated = torch.linalg.svd(weight)
    others = [whitened(weight, x, rank), scaled(weight, x, rank)]
    others.append((truncated.U[:, :rank] * truncated.S[:rank]) @ truncated.Vh[:rank])
    for seed in range(50):  # least squares on random directions, which are far better than random matrices
        directions = torch.linalg.qr(batch(7, rank, seed=seed)).Q
        others.append(directions @ directions.T @ weight)
    for other in others:
        for offset in (bias, (y - x @ other.T).mean(0)):
            assert best <= float((x @ other.T + offset - y).square().sum(1).mean()) * (1 + SAME)


def test_factors_are_balanced_and_their_product_is_the_projected_weight():
    weight, bias, x = layer()
    cut = cut_of_outputs(weight[None], bias[None], *moments(x @ weight.T + bias))
    first, last, _ = cut.factors(3)
    assert off(first[0] @ first[0].T, last[0].T @ last[0]) <= SAME
    U = cut.directions[0, :, :3]
    assert off(last[0] @ first[0], U @ U.T @ weight) <= SAME


@pytest.mark.parametrize("shape", [(7, 5), (5, 7)])
def test_a_regression_on_changed_inputs_finds_what_can_be_found(shape):
    """Where the new inputs are an invertible function of the old ones, the outputs are recovered as before."""
    outputs, inputs = shape
    weight, bias, x = layer(outputs, inputs, inputs)
    y = x @ weight.T + bias
    changed = x @ batch(inputs, inputs, seed=9) + 3
    cut = reduced_rank_regression(weight[None], beside(changed, y), HARDLY)
    for rank in (1, 2, min(shape)):
        assert error(cut, rank, changed, y) == pytest.approx(tail(y, rank), rel=SOLVED, abs=SOLVED_SMALL)
        assert float(cut.errors()[rank]) == pytest.approx(tail(y, rank), rel=SOLVED, abs=SOLVED_SMALL)


def test_a_regression_is_no_worse_than_random_layers_and_says_its_error():
    weight, bias, x = layer()
    y = x @ weight.T + bias
    changed = x.clone()
    changed[:, ::2] = x[:, ::2].relu()
    cut = reduced_rank_regression(weight[None], beside(changed, y), HARDLY)
    found = error(cut, 3, changed, y)
    assert float(cut.errors()[3]) == pytest.approx(found, rel=SOLVED)
    assert found <= error(cut_of_outputs(weight[None], bias[None], *moments(y)), 3, changed, y)
    first, last, _ = cut.factors(3)
    for seed in range(50):
        other = (last[0] + 1e-2 * batch(7, 3, seed=seed)) @ (first[0] + 1e-2 * batch(3, 9, seed=seed + 50))
        offset = (y - changed @ other.T).mean(0)
        assert found <= float((changed @ other.T + offset - y).square().sum(1).mean())


def test_along_directions_without_data_a_regression_keeps_the_weight():
    weight, bias, x = layer(5, 9, directions=2)
    y = x @ weight.T + bias
    cut = reduced_rank_regression(weight[None], beside(x, y))
    never = torch.linalg.svd(x - x.mean(0)).Vh[2:]
    assert off(cut.weight[0] @ never.T, weight @ never.T) <= 1e-9


def test_directions_are_those_of_the_covariance():
    vectors, values = principal_directions(torch.diag(torch.tensor([1.0, 3.0, 2.0], dtype=torch.float64)))
    assert values.tolist() == [3.0, 2.0, 1.0]
    assert vectors.abs().argmax(0).tolist() == [1, 2, 0]


def test_without_a_bias_the_means_count():
    x = batch(60, 4) + 2
    weight = batch(3, 4, seed=1)
    y = x @ weight.T + 5
    found = regression_without_bias(weight[None], beside(x, y), HARDLY)[0]
    assert off(found.T, torch.linalg.lstsq(x, y).solution) <= 1e-9
