"""Entanglement of data against the singular values of the data tensor itself."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import ranklens as rl

# Singular values that are zero come out as roots of rounding errors of 1e-16, that is as 1e-8 of the largest.
ENTROPY = 1e-7
# Two ways over Gram matrices differ less: by the rounding of their eigenvalues.
GRAM = 1e-8
# Shares of a squared norm are exact to the rounding of eigenvalues, whose sum is one.
SHARE = 1e-10
# Scales of the features, over 400 of them, enter by logarithms of size 1e3.
SCALES = 1e-9
TREES = {"adjacent": rl.ModeTree.adjacent(6), "distant": rl.ModeTree.distant(6)}


def rows(count, modes, size, seed):
    made = torch.Generator().manual_seed(seed)
    features = torch.randn(count, modes, size, generator=made, dtype=torch.float64)
    return features, torch.randn(count, generator=made, dtype=torch.float64)


def matricized(tensor, modes):
    others = [n for n in range(tensor.ndim) if n not in modes]
    return tensor.permute(*modes, *others).reshape(math.prod(tensor.shape[n] for n in modes), -1)


@given(seed=st.integers(0, 10**6), count=st.integers(1, 12), size=st.integers(1, 3))
@settings(max_examples=40, deadline=None)
def test_gram_matrices_have_the_spectrum_of_the_tensor(seed, count, size):
    """Both ways to the factor of a side: fewer outer products than rows, or more."""
    features, weights = rows(count, 5, size, seed)
    whole = rl.data.data_tensor(features, weights)
    for modes in ([0], [1, 3], [0, 2, 4], [0, 1, 2, 3]):
        expected = rl.entanglement_entropy(whole, modes)
        found = rl.data.entanglement(features, modes, weights=weights)
        assert float(found) == pytest.approx(float(expected), abs=ENTROPY)


def test_the_data_tensor_by_loops(tolerance):
    features, weights = rows(4, 3, 2, 0)
    whole = rl.data.data_tensor(features, weights)
    for i, j, k in itertools.product(range(2), repeat=3):
        literal = sum(float(weights[m] * features[m, 0, i] * features[m, 1, j] * features[m, 2, k]) for m in range(4))
        assert float(whole[i, j, k]) == pytest.approx(literal / 4, abs=tolerance["rounding"])


@pytest.mark.parametrize("tree", TREES.values(), ids=TREES)
def test_every_node_is_its_own_partition(tree):
    features, weights = rows(7, 6, 2, 1)
    found = rl.data.canonical_entanglement(features, tree, weights=weights)
    assert set(found) == set(tree.nodes) - {tree.root}
    for node, entropy in found.items():
        assert float(entropy) == pytest.approx(float(rl.data.entanglement(features, node, weights=weights)), abs=GRAM)


@pytest.mark.parametrize("width", [1, 2, 3, 7])
def test_what_is_unreachable_is_the_largest_tail(width):
    features, weights = rows(7, 6, 2, 2)
    whole, tree = rl.data.data_tensor(features, weights), TREES["adjacent"]
    tails = []
    for node in set(tree.nodes) - {tree.root}:
        squares = torch.linalg.svdvals(matricized(whole, list(node))).square()
        tails.append(float(squares[width:].sum() / squares.sum()))
    assert float(rl.data.unreachable(features, tree, width, weights=weights)) == pytest.approx(max(tails), abs=SHARE)


def test_no_factorization_reaches_it():
    """A hierarchical factorization of width 1, fitted until it rests, is off by at least that."""
    features, _ = rows(5, 4, 2, 3)
    tree = rl.ModeTree.adjacent(4)
    whole = rl.data.data_tensor(features)
    net = rl.hierarchical(whole.shape, 1, tree, std=0.5)
    optimizer = torch.optim.LBFGS(net.parameters(), max_iter=300, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        loss = (net.tensor() - whole).square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    share = float((net.tensor().detach() - whole).square().sum() / whole.square().sum())
    assert share >= float(rl.data.unreachable(features, tree, 1)) - SHARE


def test_hundreds_of_features_neither_overflow_nor_fade():
    features = 1e-3 * rows(10, 400, 2, 4)[0]
    bigger = rl.data.entanglement(1e6 * features, range(200))
    assert float(rl.data.entanglement(features, range(200))) == pytest.approx(float(bigger), abs=SCALES)
    assert 0 <= float(bigger) <= math.log(10)


def test_a_zero_tensor_says_nothing():
    assert float(rl.data.entanglement(torch.zeros(3, 4, 2), [0])) == 0.0
    assert float(rl.data.unreachable(torch.zeros(3, 4, 2), rl.ModeTree.adjacent(4), 1)) == 0.0


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda x: rl.data.entanglement(x, [4]), "mode 4 does not exist"),
        (lambda x: rl.data.entanglement(x, [0, 0]), "each once"),
        (lambda x: rl.data.entanglement(x, [0, 1, 2, 3]), "not all"),
        (lambda x: rl.data.entanglement(x, []), "not all"),
        (lambda x: rl.data.entanglement(x * torch.nan, [0]), "finite"),
        (lambda x: rl.data.entanglement(x[:0], [0]), "none of them zero"),
        (lambda x: rl.data.canonical_entanglement(x, rl.ModeTree.adjacent(8)), "the tree has 8 modes"),
        (lambda x: rl.data.unreachable(x, rl.ModeTree.adjacent(4), 0), "width is 0"),
        (lambda x: rl.data.data_tensor(x.repeat(1, 10, 1)), "use entanglement"),
    ],
)
def test_what_makes_no_sense(call, said):
    with pytest.raises(ValueError, match=said):
        call(torch.ones(3, 4, 2))
