"""The queue of rows of an activation, and its measures, against literal ones."""

import os

import numpy as np
import pytest
import torch
from torch import distributed, multiprocessing, nn

from ranklens.nn.activation_rows import ActivationRows, activation_rank, gathered
from ranklens.tensors import measures

# Relative error of a measure of rows in float32 against the same measure in float64.
SINGLE = 1e-5

pytestmark = pytest.mark.usefixtures("initial_values")


def test_the_queue_keeps_the_latest_rows():
    queue = ActivationRows(80)
    for start in range(0, 200, 10):
        queue.add(torch.arange(start, start + 10.0)[:, None], nn.Linear(1, 1))
    assert len(queue) == 80
    assert sorted(queue.rows()[:, 0].tolist()) == list(range(120, 200))


def test_one_pass_fills_an_eighth_of_the_queue():
    queue = ActivationRows(16)
    queue.add(torch.arange(100.0).reshape(1, 100, 1), nn.Linear(1, 1))
    assert queue.rows()[:, 0].tolist() == [0.0, 50.0]


@pytest.mark.parametrize(
    ("module", "shape", "rows", "channels"),
    [
        (nn.Conv1d(2, 3, 1), (4, 3, 5), 20, 3),
        (nn.Linear(2, 3), (4, 5, 3), 20, 3),
        (nn.Conv2d(2, 3, 1), (2, 3, 2, 2), 8, 3),
        (nn.Flatten(), (7, 3), 7, 3),
    ],
)
def test_channels_are_the_columns(module, shape, rows, channels):
    queue = ActivationRows(1000)
    output = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    queue.add(output, module)
    assert queue.rows().shape == (rows, channels)
    assert float(queue.rows().sum()) == pytest.approx(float(output.sum()), rel=SINGLE)


def test_outputs_without_rows_are_left_out():
    queue = ActivationRows(10)
    queue.add(torch.ones(3), nn.Flatten(0))
    queue.add(torch.ones(3, 4, dtype=torch.int64), nn.Flatten())
    assert len(queue) == 0


def test_measures_are_the_literal_ones():
    rows = torch.randn(60, 8, generator=torch.Generator().manual_seed(0)) + 3
    found = activation_rank(rows)
    s = np.linalg.svd(rows.double().numpy(), compute_uv=False)
    p = s / s.sum() + 1e-7
    assert found.rankme == pytest.approx(float(np.exp(-(p * np.log(p)).sum())), rel=SINGLE)
    s = np.linalg.svd((rows - rows.mean(0)).double().numpy(), compute_uv=False)
    p = s / s.sum()
    assert found.effective_rank == pytest.approx(float(np.exp(-(p * np.log(p)).sum())), rel=SINGLE)
    assert found.stable_rank == pytest.approx(float((s**2).sum() / s[0] ** 2), rel=SINGLE)
    assert found.frobenius == pytest.approx(float((s**2).sum() ** 0.5), rel=SINGLE)
    assert found.rows == 60


def test_the_limit_is_that_of_many_rows():
    mix = torch.randn(100, 100, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rows = torch.randn(1000, 100, generator=torch.Generator().manual_seed(1), dtype=torch.float64) @ mix
    found = activation_rank(rows.float())
    limit = float(measures.effective_rank(mix))
    assert abs(found.effective_rank_limit - limit) < abs(found.effective_rank - limit) / 3


def test_rows_that_are_not_finite_have_no_measures():
    rows = torch.ones(4, 3)
    rows[1, 1] = torch.inf
    found = activation_rank(rows)
    assert np.isnan([found.effective_rank, found.effective_rank_limit, found.stable_rank, found.rankme]).all()
    assert found.rows == 4


def _process(rank, folder):
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    queues = {"a": ActivationRows(10), "b": ActivationRows(10)}
    for k in range(rank + 2):
        queues["a"].add(torch.full((1, 3), 10.0 * rank + k), nn.Linear(3, 3))
    if rank == 1:
        queues["b"].add(torch.ones(1, 2), nn.Linear(2, 2))
    found = gathered(queues)
    torch.save({name: rows.clone() for name, rows in found.items()}, os.path.join(folder, f"{rank}.pt"))
    distributed.destroy_process_group()


@pytest.mark.slow
def test_processes_measure_the_rows_of_all(tmp_path):
    multiprocessing.spawn(_process, args=(str(tmp_path),), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    assert first["a"][:, 0].tolist() == [0.0, 1.0, 10.0, 11.0, 12.0]
    assert torch.equal(first["a"], second["a"])
    assert first["b"].tolist() == second["b"].tolist() == [[1.0, 1.0]]
