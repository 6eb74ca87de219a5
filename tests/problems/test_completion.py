"""Completion from numpy arrays and nested lists, and with numbers that are refused."""

import numpy as np
import pytest
import torch

import ranklens as rl

TARGET = np.arange(6.0).reshape(2, 3)


def test_arrays_lists_and_tensors_make_one_problem():
    indices, values = [[0, 1], [1, 2]], [1.0, 5.0]
    made = [
        rl.Completion(indices, values, (2, 3), target=TARGET.tolist()),
        rl.Completion(np.array(indices, dtype=np.int32), np.array(values, dtype=np.float32), (2, 3), target=TARGET),
        rl.Completion(torch.tensor(indices), torch.tensor(values), (2, 3), target=torch.from_numpy(TARGET)),
    ]
    for task in made:
        assert task.indices.tolist() == indices
        assert task.values.tolist() == values
        assert task.values.dtype == torch.float64
        assert float(task.error(torch.zeros(2, 3, dtype=torch.float64))) == 1.0
        assert float(task.loss(torch.from_numpy(TARGET))) == 0.0


def test_a_sample_of_an_array_is_that_of_its_tensor():
    sampled = [rl.Completion.sample(x, observed=4, seed=3) for x in (TARGET, TARGET.tolist(), torch.from_numpy(TARGET))]
    for task in sampled:
        assert torch.equal(task.indices, sampled[0].indices)
        assert torch.equal(task.values, torch.from_numpy(TARGET)[tuple(task.indices.T)])


def test_all_entries_are_observed_in_the_order_of_their_places():
    task = rl.Completion.sample(TARGET, observed=6)
    assert task.indices.tolist() == [[0, 0], [0, 1], [0, 2], [1, 0], [1, 1], [1, 2]]
    assert torch.equal(task.values, torch.from_numpy(TARGET).reshape(-1))


def test_entries_of_a_single_number_cannot_be_sampled():
    with pytest.raises(ValueError, match="target is a single number"):
        rl.Completion.sample(2.0, observed=1)


def test_the_observed_memory_is_not_shared():
    """Numbers that change after the problem was made do not change the problem."""
    values = np.array([1.0, 5.0])
    task = rl.Completion([[0, 1], [1, 2]], values, (2, 3))
    values[:] = 0.0
    assert task.values.tolist() == [1.0, 5.0]


@pytest.mark.parametrize(
    "make",
    [
        lambda z: rl.Completion.sample(torch.eye(2) * z, observed=3),
        lambda z: rl.Completion([[0, 0]], torch.ones(1) * z, (2, 2)),
        lambda z: rl.Completion([[0, 0]], [1.0], (2, 2), target=np.eye(2) * z),
        lambda z: rl.Sensing(torch.ones(1, 2, 2) * z, [1.0]),
        lambda z: rl.DenseSensing(torch.ones(1, 2, 2) * z, [1.0]),
    ],
)
def test_complex_numbers_are_refused(make):
    make(1)
    with pytest.raises(TypeError, match="complex"):
        make(1 + 1j)


def test_the_flow_of_the_counterexample_starts_from_the_sign_that_cannot_fit():
    """All solutions have determinant -z z2, whatever the unobserved entry."""
    task = rl.Completion.counterexample(z=2.0, z2=-3.0)
    for unobserved in (-1.0, 0.0, 10.0):
        W = torch.tensor([[unobserved, 2.0], [-3.0, 0.0]], dtype=torch.float64)
        assert float(task.loss(W)) == 0.0
        assert float(torch.linalg.det(W)) == pytest.approx(6.0)


def test_a_subset_has_the_target_the_loss_and_the_shape_of_its_problem():
    task = rl.Completion.sample(TARGET, observed=5, loss="huber")
    part = task.subset(torch.tensor([3, 1]))
    other = torch.ones(2, 3, dtype=torch.float64)
    assert part.indices.tolist() == task.indices[[3, 1]].tolist()
    assert part.values.tolist() == task.values[[3, 1]].tolist()
    assert (part.shape, part.objective) == (task.shape, task.objective)
    assert float(part.error(other)) == float(task.error(other)) > 0
