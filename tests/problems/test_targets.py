import pytest
import torch

import ranklens as rl


def test_targets_have_their_rank_and_norm():
    W = rl.targets.low_rank_matrix((20, 12), rank=3, norm=7.0)
    assert int(rl.numerical_rank(W)) == 3
    assert float(W.norm()) == pytest.approx(7.0)
    T = rl.targets.cp((6, 7, 8), rank=2)
    assert all(int(rl.numerical_rank(rl.matricize(T, [n]))) == 2 for n in range(3))
    assert float(T.norm()) == pytest.approx((6 * 7 * 8) ** 0.5)
    H = rl.targets.hierarchical((4,) * 4, {(0, 1): 1, (2, 3): 1, (0, 1, 2, 3): 1}, norm=1.0)
    assert int(rl.numerical_rank(rl.matricize(H, [0, 1]))) == 1
    assert not torch.equal(T, rl.targets.cp((6, 7, 8), rank=2, seed=1))
    with pytest.raises(ValueError, match=r"norm is -1\.0"):
        rl.targets.cp((3, 3), rank=1, norm=-1.0)
