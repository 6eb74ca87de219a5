"""Features of rows against plain singular value decompositions."""

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from ranklens.completers.observed import Observed
from ranklens.completers.side import STRENGTHS, decompose, observed_with, strengths

# Features of few rows, decomposed and multiplied again.
SAME = 1e-10


def test_features_are_standardized_and_decomposed():
    made = np.random.default_rng(0)
    X = made.standard_normal((30, 4)) * [1.0, 100.0, 1e-3, 0.0] + [0.0, 5.0, 1.0, 7.0]
    found = decompose(X)
    assert len(found.s) == 3  # the constant feature says nothing
    whole = (found.Q * found.s @ found.V.T).numpy()
    assert np.allclose(whole[:, :3], (X - X.mean(axis=0))[:, :3] / X.std(axis=0)[:3], atol=SAME)
    assert np.allclose(found.directions(X).numpy(), (found.Q * found.s).numpy(), atol=SAME)


def test_sparse_features_are_as_dense_ones():
    X = np.random.default_rng(0).random((40, 12)) * (np.random.default_rng(1).random((40, 12)) < 0.3)
    dense = decompose(X, standardize=False)
    thin = decompose(sp.csr_matrix(X), standardize=False)
    for made in (dense, thin):
        assert np.allclose((made.Q * made.s @ made.V.T).numpy(), X - X.mean(axis=0), atol=SAME)
    assert np.allclose(thin.directions(sp.csr_matrix(X[:5])).numpy(), (thin.Q * thin.s).numpy()[:5], atol=SAME)


def test_a_single_row_has_no_features():
    assert len(decompose(np.ones((1, 3))).s) == 0


def test_which_entries_are_observed():
    indices = torch.tensor([[0, 1], [0, 2], [2, 1], [2, 1]])
    observed = Observed(indices, torch.ones(4).double(), (3, 4))
    half = 1 / np.sqrt(2)
    assert np.allclose(observed_with(observed, 0).toarray(), [[0, half, half, 0], [0, 0, 0, 0], [0, 1, 0, 0]])
    assert observed_with(observed, 1).shape == (4, 3)


def test_a_strength_is_given_or_chosen_from_a_grid():
    assert strengths({}) == [{}]
    assert strengths({"day": 2}) == [{"day": 2.0}]
    both = strengths({"day": "auto", 1: "auto", "hour": 0.5})
    assert both == [{"day": tried, 1: tried, "hour": 0.5} for tried in STRENGTHS]
    for wrong in (-1.0, 0.0, float("inf"), float("nan"), True, "yes"):
        with pytest.raises(ValueError, match="strength of mode 'day' in smooth is"):
            strengths({"day": wrong})
