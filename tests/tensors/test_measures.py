import math

import numpy as np
import oracles
import pytest
import torch
from conftest import TOLERANCE
from hypothesis import given
from hypothesis import strategies as st

import ranklens as rl

# Relative; a function of six singular values, which are found up to a few roundings of the largest.
A_FEW_ROUNDINGS = 1e-12
# Relative; at a scale of 1e-200 the decomposition itself loses some digits.
EXTREME_SCALE = 1e-9
FLOAT32 = 1e-5  # relative; singular values in float32

MATRICES = st.tuples(st.integers(1, 6), st.integers(1, 6), st.integers(0, 2**20)).map(
    lambda x: torch.randn(x[0], x[1], generator=torch.Generator().manual_seed(x[2]), dtype=torch.float64)
)


@given(W=MATRICES)
def test_effective_rank_by_the_literal_formula_and_its_bounds(W):
    found = float(rl.effective_rank(W))
    assert found == pytest.approx(oracles.effective_rank(W.numpy()), rel=TOLERANCE["rounding"])
    assert 1 - A_FEW_ROUNDINGS <= found <= min(W.shape) + A_FEW_ROUNDINGS
    assert float(rl.effective_rank(1e-200 * W)) == pytest.approx(found, rel=EXTREME_SCALE)
    assert 1 - A_FEW_ROUNDINGS <= float(rl.stable_rank(W)) <= min(W.shape) + A_FEW_ROUNDINGS


@given(W=MATRICES)
def test_norms_and_distances(W):
    s = np.linalg.svd(W.numpy(), compute_uv=False)
    assert float(rl.nuclear_norm(W)) == pytest.approx(s.sum())
    assert float(rl.schatten_norm(W, 2)) == pytest.approx(np.linalg.norm(W.numpy()))
    assert float(rl.schatten_norm(W, math.inf)) == pytest.approx(s.max())
    assert float(rl.schatten_norm(W, 0.5)) == pytest.approx((s**0.5).sum() ** 2)
    assert float(rl.stable_rank(W)) == pytest.approx((s**2).sum() / s.max() ** 2)
    for r in range(len(s) + 1):
        assert float(rl.distance_to_rank(W, r)) == pytest.approx(np.linalg.norm(s[r:]), abs=A_FEW_ROUNDINGS)


def test_zero_matrix_is_of_rank_zero_in_every_sense():
    Z = torch.zeros(3, 4)
    for measure in (rl.effective_rank, rl.stable_rank, rl.numerical_rank, rl.nuclear_norm):
        assert float(measure(Z)) == 0
    assert float(rl.schatten_norm(Z, 0.5)) == 0
    assert float(rl.entanglement_entropy(Z, [0])) == 0
    assert rl.cp_rank_estimate(Z).rank == 0


def test_measures_are_scale_free():
    eye = torch.eye(3, dtype=torch.float64)
    for scale in (1e-200, 1e200):
        assert float(rl.distance_to_rank(scale * eye, 1)) == pytest.approx(scale * 2**0.5)
        assert rl.cp_rank_estimate(scale * rl.targets.cp((3, 3, 3), 2)).rank == 2


def test_effective_rank_has_a_gradient_where_the_rank_is_deficient():
    W = torch.diag(torch.tensor([2.0, 1.0, 0.0]).double()).requires_grad_()
    for measure in (rl.effective_rank, lambda W: rl.entanglement_entropy(W, [0])):
        (gradient,) = torch.autograd.grad(measure(W), W)
        step = torch.zeros(3, 3).double()
        step[1, 1] = 1e-6
        slope = (measure((W + step).detach()) - measure((W - step).detach())) / 2e-6
        assert float(gradient[1, 1]) == pytest.approx(float(slope), rel=TOLERANCE["difference"])


def test_batches_are_loops():
    W = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    W[1, 2] = 0
    for measure in (rl.effective_rank, rl.stable_rank, rl.numerical_rank, rl.nuclear_norm, rl.singular_values):
        found = measure(W)
        for i in range(2):
            for j in range(3):
                torch.testing.assert_close(found[i, j], measure(W[i, j]))


def test_the_one_cut_off():
    from ranklens.tensors.measures import rank_cutoff

    assert rank_cutoff(torch.float64, (3, 100, 50)) == 100 * np.finfo(np.float64).eps
    W = rl.targets.low_rank_matrix((50, 30), rank=4)
    assert int(rl.numerical_rank(W)) == 4
    assert int(rl.numerical_rank(W.float())) == 4
    s = torch.diag(torch.tensor([1.0, 1e-3, 1e-7]).double())
    assert [int(rl.numerical_rank(s, rtol)) for rtol in (None, 1e-5, 1e-2)] == [3, 2, 1]
    with pytest.raises(ValueError, match=r"rtol is 1\.0"):
        rl.numerical_rank(s, 1.0)


@given(st.sets(st.integers(0, 3)), st.integers(0, 100))
def test_matricize_is_the_literal_index_map(modes, seed):
    T = torch.randn(2, 3, 2, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    np.testing.assert_array_equal(rl.matricize(T, list(modes)), oracles.matricize(T.numpy(), modes))
    batch = torch.stack([T, 2 * T])
    torch.testing.assert_close(rl.matricize(batch, list(modes), order=4)[1], 2 * rl.matricize(T, list(modes)))


def test_hierarchical_rank_is_bounded_by_the_widths_and_sees_the_tree():
    near, far = rl.ModeTree.adjacent(4), rl.ModeTree.distant(4)
    target = rl.targets.hierarchical((4, 4, 4, 4), rank=2, tree=near)
    assert {k: int(v) for k, v in rl.hierarchical_rank(target, near).items() if len(k) > 1} == {(0, 1): 2, (2, 3): 2}
    assert {k: int(v) for k, v in rl.hierarchical_rank(target, far).items() if len(k) > 1} == {(0, 2): 4, (1, 3): 4}
    with pytest.raises(ValueError, match="fewer than the tree's 5 modes"):
        rl.hierarchical_rank(target, rl.ModeTree.adjacent(5))


def test_entropy_uses_squares_and_effective_rank_does_not():
    W = torch.diag(torch.tensor([2.0, 1.0]).double())
    q = np.array([0.8, 0.2])
    assert float(rl.entanglement_entropy(W, [0])) == pytest.approx(-(q * np.log(q)).sum())
    p = np.array([2 / 3, 1 / 3])
    assert float(rl.effective_rank(W)) == pytest.approx(np.exp(-(p * np.log(p)).sum()))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: rl.effective_rank(torch.tensor([[math.nan]])), r"entry \(0, 0\) of W is nan"),
        (lambda: rl.effective_rank(torch.tensor([[math.inf]])), "is inf"),
        (lambda: rl.effective_rank(torch.zeros(0, 2)), "at least one of each"),
        (lambda: rl.schatten_norm(torch.ones(2, 2), 0.0), "p"),
        (lambda: rl.distance_to_rank(torch.ones(2, 2), -1), "rank"),
        (lambda: rl.matricize(torch.ones(2, 2), [2]), "mode"),
        (lambda: rl.matricize(torch.ones(2, 2), [0, 0]), "repeat"),
    ],
)
def test_bad_input(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_values_near_the_largest_float_have_a_rank():
    assert float(rl.effective_rank(3e38 * torch.eye(3))) == pytest.approx(3, rel=FLOAT32)


def test_arrays_and_lists_are_measured_as_tensors_are():
    W = [[3.0, 1.0], [0.0, 2.0]]
    tensor = torch.tensor(W, dtype=torch.float64)
    for measure in (rl.singular_values, rl.effective_rank, rl.stable_rank, rl.numerical_rank, rl.nuclear_norm):
        for value in (W, np.array(W)):
            assert torch.equal(measure(value), measure(tensor))
    for value in (W, np.array(W)):
        assert float(rl.schatten_norm(value, 2)) == float(rl.schatten_norm(tensor, 2))
        assert float(rl.distance_to_rank(value, 1)) == float(rl.distance_to_rank(tensor, 1))
        assert torch.equal(rl.matricize(value, [1]), tensor.T)
        assert float(rl.entanglement_entropy(value, [0])) == float(rl.entanglement_entropy(tensor, [0]))
        assert rl.hierarchical_rank(value, rl.ModeTree.adjacent(2)) == rl.hierarchical_rank(
            tensor, rl.ModeTree.adjacent(2)
        )
        assert rl.cp_rank_estimate(value).rank == 2
    assert int(rl.numerical_rank([[1, 2], [2, 4]])) == 1
    rounded = rl.targets.low_rank_matrix((50, 30), rank=4).float()
    assert int(rl.numerical_rank(rounded.numpy())) == 4  # numpy's float32 is judged as float32


def test_the_cut_off_never_exceeds_one_half():
    """4096 times the rounding error of bfloat16 is 32; then not even the largest singular value would count."""
    from ranklens.tensors.measures import rank_cutoff

    assert rank_cutoff(torch.bfloat16, (4096, 10)) == 0.5
    assert rank_cutoff(torch.float16, (4, 10)) == 10 * torch.finfo(torch.float16).eps < 0.5


def test_modes_of_a_matricization_are_a_set():
    """Rows are in the order of the modes of the tensor, in whatever order they are named."""
    T = torch.arange(24.0).reshape(2, 3, 4)
    expected = torch.stack([T[i, :, k] for i in range(2) for k in range(4)])
    for modes in ((0, 2), (2, 0)):
        assert torch.equal(rl.matricize(T, modes), expected)
    assert torch.equal(rl.matricize(T, (2, 1)), rl.matricize(T, [0]).T)


@pytest.mark.parametrize("states", [1, 2, 3, 4])
def test_hankel_rank_is_the_number_of_states(states):
    A = torch.linspace(-0.9, 0.8, states + 1, dtype=torch.float64)[1:]
    h = rl.StateSpace(A).impulse_response(16)
    H = rl.measures.hankel(h)
    assert H.shape == (8, 9)
    assert all(float(H[i, j]) == float(h[i + j]) for i in range(8) for j in range(9))
    assert int(rl.measures.hankel_rank(h)) == states
    assert int(rl.measures.hankel_rank(h, rows=2)) == min(states, 2)
    assert rl.measures.hankel_rank(torch.stack([h, 0 * h])).tolist() == [states, 0]


def test_hankel_matrices_need_delays_and_fewer_rows():
    with pytest.raises(ValueError, match="at least one delay"):
        rl.measures.hankel([])
    with pytest.raises(ValueError, match="rows is 4; a response of 3 delays"):
        rl.measures.hankel([1.0, 2.0, 3.0], rows=4)
