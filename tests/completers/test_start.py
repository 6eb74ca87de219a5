import numpy as np
import pytest
import torch
from completion_cases import observed, planted

import ranklens as rl
from ranklens.completers.start import aligned_, leading

# Four iterations of the power method on a large matrix of which a fifth is observed: directions to about a percent.
ROUGHLY = 1e-2


@pytest.mark.parametrize("shape", [(30, 20), (1100, 1000)])
def test_the_initialization_is_along_the_observed_matrix(shape, tolerance):
    X, _ = planted(shape, 2, 0.2)
    U, s, V = leading(observed(X), 2)
    Y = np.nan_to_num(X)
    assert np.allclose(Y @ V.numpy(), (U * s).numpy(), atol=ROUGHLY * float(s[0]))
    scale = 1e-3
    net = aligned_(rl.deep_matrix(shape, 3, 4), observed(X), scale)
    found = torch.linalg.svdvals(net.tensor().detach())
    assert float(found[0]) == pytest.approx(scale * np.sqrt(shape[0] * shape[1]), rel=tolerance["difference"])
    assert float(net.imbalance()) < tolerance["balance"] * float(found[0])


def test_singular_values_keep_their_ratios(tolerance):
    X, _ = planted((12, 10), 3, 0.7)
    net = aligned_(rl.deep_matrix((12, 10), 3, 10), observed(X), 1e-4)
    found, wanted = torch.linalg.svdvals(net.tensor().detach()), np.linalg.svd(np.nan_to_num(X), compute_uv=False)
    assert np.allclose(found / found[0], wanted / wanted[0], atol=tolerance["rounding"])


def test_nothing_but_zeros_gives_zeros():
    net = aligned_(rl.deep_matrix((3, 4), 2), observed(np.zeros((3, 4))), 1e-3)
    assert not net.tensor().any()
