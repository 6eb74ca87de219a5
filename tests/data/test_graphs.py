"""The generated task on vertices: what was asked for is in it."""

import numpy as np
import pytest
import torch

from ranklens.data.graphs import vertex_task


def test_edges_are_simple_and_prefer_the_own_class():
    task = vertex_task(300, 3, degree=8, same=0.7, seed=2)
    assert len(task.edges) == 1200
    assert (task.edges[:, 0] < task.edges[:, 1]).all()
    assert len(np.unique(task.edges, axis=0)) == 1200
    agree = float((task.labels[task.edges[:, 0]] == task.labels[task.edges[:, 1]]).float().mean())
    assert agree == pytest.approx(0.7 + 0.3 / 3, abs=4 * (0.8 * 0.2 / 1200) ** 0.5 + 0.03)


def test_every_vertex_is_in_one_part():
    task = vertex_task(100, 4, shares=(0.3, 0.3))
    assert sorted(torch.cat([task.train, task.validation, task.test]).tolist()) == list(range(100))
    assert [len(x) for x in (task.train, task.validation, task.test)] == [30, 30, 40]
    assert task.labels.bincount().tolist() == [25] * 4


def test_degrees_differ_more_with_a_larger_spread():
    even, uneven = (np.bincount(vertex_task(200, 2, spread=x).edges.reshape(-1), minlength=200) for x in (0.0, 1.5))
    assert uneven.std() > 2 * even.std()


def test_what_is_refused():
    for arguments, message in [
        ({"degree": 80.0}, "over half"),
        ({"shares": (0.6, 0.5)}, "sum is below 1"),
        ({"same": 1.5}, "same is 1.5"),
        ({"classes": 0}, "classes is 0"),
    ]:
        with pytest.raises(ValueError, match=message):
            vertex_task(**{"vertices": 100, "classes": 2} | arguments)
