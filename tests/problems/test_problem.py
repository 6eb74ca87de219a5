import math

import cases
import numpy as np
import pytest
import torch

import ranklens as rl

T = torch.arange(24, dtype=torch.float64).reshape(2, 3, 4) / 10


def literal(task, tensor, elementwise):
    return [elementwise(float(tensor[tuple(i)]) - float(y)) for i, y in zip(task.indices, task.values, strict=True)]


@pytest.mark.parametrize(
    ("loss", "elementwise", "reduce"),
    [
        ("mse", lambda e: e * e, np.mean),
        ("half_sse", lambda e: e * e / 2, np.sum),
        ("l1", abs, np.mean),
        ("huber", lambda e: e * e / 2 if abs(e) <= 1 else abs(e) - 0.5, np.mean),
        (rl.losses.huber(0.3), lambda e: e * e / 2 if abs(e) <= 0.3 else 0.3 * (abs(e) - 0.15), np.mean),
        (lambda p, y: (p - y) ** 4, lambda e: e**4, np.mean),
    ],
)
def test_losses_are_their_formulas(loss, elementwise, reduce):
    task = rl.Completion.sample(T, observed=10, loss=loss)
    other = T.flip(0)
    expected = reduce(literal(task, other, elementwise))
    assert float(task.loss(other)) == pytest.approx(expected, rel=1e-12)
    net = rl.TensorNetwork("abc->abc", [other])
    assert float(task.loss(net).detach()) == pytest.approx(expected, rel=1e-12)
    assert float(task.loss(other.float())) == pytest.approx(expected, rel=1e-5)


def test_sample_draws_different_entries_and_noise():
    task = rl.Completion.sample(T, observed=24, seed=3)
    assert torch.equal(task.values, T.reshape(-1))
    assert len(task) == 24
    one, two = (rl.Completion.sample(T, observed=9, seed=seed) for seed in (0, 1))
    assert not torch.equal(one.indices, two.indices)
    big = torch.zeros(100, 100)
    noisy = rl.Completion.sample(big, observed=10_000, noise=0.5)
    assert float(noisy.values.std()) == pytest.approx(0.5, rel=0.03)
    assert float(one.error(T.flip(0))) == pytest.approx(float((T.flip(0) - T).norm() / T.norm()))
    assert float(one.error(rl.TensorNetwork("abc->abc", [T]))) == 0


def test_duplicates():
    indices = torch.tensor([[0, 0], [1, 1], [0, 0]])
    values = torch.tensor([1.0, 2.0, 3.0])
    with pytest.raises(ValueError, match=r"entry \(0, 0\) is observed 2 times with values from 1 to 3"):
        rl.Completion(indices, values, (2, 2))
    kept = rl.Completion(indices, values, (2, 2), duplicates="keep")
    assert len(kept) == 3
    mean = rl.Completion(indices, values, (2, 2), duplicates="mean")
    assert mean.values.tolist() == [2.0, 2.0]
    agreeing = rl.Completion(indices, torch.tensor([1.0, 2.0, 1.0]), (2, 2))
    assert agreeing.values.tolist() == [1.0, 2.0]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: rl.Completion(torch.tensor([[0, 64]]), torch.ones(1), (64, 64)),
            "index 64 in row 0",
        ),
        (lambda: rl.Completion(torch.tensor([[-1, 0]]), torch.ones(1), (4, 4)), "index -1 in row 0"),
        (lambda: rl.Completion(torch.zeros(0, 2).long(), torch.ones(0), (4, 4)), "at least one observation"),
        (lambda: rl.Completion(torch.zeros(2, 2).long(), torch.ones(1), (4, 4)), "2 indices and 1 values"),
        (lambda: rl.Completion(torch.zeros(1, 3).long(), torch.ones(1), (4, 4)), "needs .batch, 2"),
        (lambda: rl.Completion(torch.zeros(1, 2).long(), torch.tensor([math.nan]), (4, 4)), "value nan in row 0"),
        (lambda: rl.Completion(torch.zeros(1, 2).long(), torch.tensor([math.inf]), (4, 4)), "value inf in row 0"),
        (lambda: rl.Completion.sample(T, observed=25), "observed is 25; the target has 24"),
        (lambda: rl.Completion.sample(T, observed=0), "observed is 0"),
        (lambda: rl.Completion.sample(T, observed=3, noise=-1.0), "noise is -1"),
        (lambda: rl.Completion.sample(T * math.nan, observed=3), "not finite"),
        (lambda: rl.Completion.sample(T, observed=3, loss="mae"), "loss is 'mae'; choose one of"),
        (lambda: rl.Completion.sample(T, observed=3).split(0.0), "leaves one part empty"),
        (lambda: rl.Completion.sample(T, observed=3).loss(T[0]), r"tensors of shape \(2, 3, 4\), not \(3, 4\)"),
        (lambda: rl.Completion.counterexample(d=1), "d is 1"),
        (lambda: rl.Completion.counterexample(z=0.0), "must differ from zero"),
        (lambda: rl.Completion.counterexample().error(torch.eye(2).double()), "pass target="),
        (lambda: rl.Sensing(torch.ones(2, 3, 4), torch.ones(1)), "vectors of mode 0"),
        (lambda: rl.DenseSensing(torch.ones(2, 3, 4), torch.ones(1)), "operators have shape"),
        (lambda: rl.losses.huber(0.0), "delta is 0.0"),
        (lambda: rl.Completion.sample(T, observed=3).error(T[:1]), r"not \(1, 3, 4\)"),
        (lambda: rl.Completion(torch.zeros(1, 0).long(), torch.ones(1), ()), "at least one mode"),
        (lambda: rl.Completion(torch.zeros(1, 2).long(), torch.ones(1), (2, 2), target=torch.ones(3, 3)), "target has"),
    ],
)
def test_bad_input(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_split_partitions():
    task = rl.Completion.sample(T, observed=20)
    split = task.split(0.25, seed=1)
    assert (len(split.train), len(split.held_out)) == (15, 5)
    both = torch.cat([split.train.indices, split.held_out.indices])
    assert len(both.unique(dim=0)) == 20
    assert not torch.equal(task.split(0.25, seed=2).held_out.indices, split.held_out.indices)


@pytest.mark.parametrize("name", ["matrix depth 3", "cp order 3", "hierarchical binary"])
def test_sensing_is_the_inner_product(name):
    net = cases.NETWORKS[name](std=1.0)
    made = torch.Generator().manual_seed(0)
    vectors = [torch.randn(6, d, generator=made, dtype=torch.float64) for d in net.shape]
    values = torch.randn(6, generator=made, dtype=torch.float64)
    letters = "abcdef"[: len(net.shape)]
    equation = ",".join(f"z{x}" for x in letters) + f"->z{letters}"
    operators = torch.einsum(equation, *vectors)
    dense = rl.DenseSensing(operators, values)
    thin = rl.Sensing(vectors, values)
    expected = float(((operators.flatten(1) @ net.tensor().flatten() - values) ** 2).mean().detach())
    for task in (dense, thin):
        assert float(task.loss(net).detach()) == pytest.approx(expected, rel=1e-11)
        assert float(task.loss(net.tensor()).detach()) == pytest.approx(expected, rel=1e-11)
        assert len(task.split(0.5).train) == 3
        assert float(task.subset(torch.arange(6)).loss(net).detach()) == pytest.approx(expected, rel=1e-11)


def test_counterexamples():
    task = rl.Completion.counterexample()
    assert {tuple(i): v for i, v in zip(task.indices.tolist(), task.values.tolist(), strict=True)} == {
        (0, 1): 1.0,
        (1, 0): 1.0,
        (1, 1): 0.0,
    }
    task = rl.Completion.counterexample(d=4, z=-2.0, z2=0.5, eps=0.1)
    W = torch.full((4, 4), 3.0).double()
    W[tuple(task.indices.T)] = task.values
    assert float(task.loss(W)) == 0
    assert float(torch.linalg.det(W)) == pytest.approx(3 * 0.1 - (-2.0 * 0.5))
    assert task.objective.name == "half_sse"


def test_errors_neither_under_nor_overflow():
    for scale in (1e200, 1e-200):
        task = rl.Completion.sample(scale * torch.ones(3, 3, dtype=torch.float64), observed=5)
        assert float(task.error(torch.zeros(3, 3).double())) == pytest.approx(1.0)


def test_integer_operators_are_numbers():
    task = rl.DenseSensing(torch.ones(2, 3, 3).long(), torch.tensor([9, 9]))
    assert float(task.loss(torch.ones(3, 3).double())) == 0


def test_order_784_completion_never_flattens():
    indices = torch.randint(2, (3, 784), generator=torch.Generator().manual_seed(0))
    task = rl.Completion(indices, torch.ones(3), (2,) * 784)
    net = rl.init.normal_(rl.cp((2,) * 784, rank=2), std=1e-3, mean=1.0)
    assert float(task.loss(net).detach()) == pytest.approx(1.0, abs=0.3)


def test_a_look_in_inference_mode_leaves_problems_trainable():
    net = rl.deep_matrix((4, 4), depth=2, std=0.3, dtype=torch.float32)
    operators = torch.ones(3, 4, 4, dtype=torch.float64)
    for task in (
        rl.DenseSensing(operators, torch.ones(3, dtype=torch.float64)),
        rl.Completion.sample(torch.ones(4, 4, dtype=torch.float64), observed=9, loss="huber"),
    ):
        with torch.inference_mode():
            task.loss(net)
        task.loss(net).backward()


def test_what_vectors_were_computed_from_is_not_trained():
    x = torch.ones(5, 3, dtype=torch.float64, requires_grad=True)
    task = rl.Sensing([2 * x, 3 * x], torch.ones(5, dtype=torch.float64))
    net = rl.deep_matrix((3, 3), depth=2, std=0.3)
    for _ in range(2):
        task.loss(net).backward()
    assert x.grad is None


@pytest.mark.parametrize("fraction", [0.1, 0.29, 0.57, 0.7, 0.9])
@pytest.mark.parametrize("observed", [11, 20, 24])
def test_the_part_held_out_is_as_close_to_the_fraction_as_whole_numbers_allow(fraction, observed):
    split = rl.Completion.sample(T, observed=observed).split(fraction)
    assert abs(len(split.held_out) - fraction * observed) <= 0.5
    assert len(split.train) + len(split.held_out) == observed
