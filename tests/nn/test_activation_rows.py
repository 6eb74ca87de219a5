"""The queue of rows of an activation, and its measures, against literal ones."""

import os

import numpy as np
import pytest
import torch
from torch import distributed, multiprocessing, nn

from ranklens.nn.activation_rows import ActivationRows, _extrapolated, activation_rank, gathered
from ranklens.tensors import measures

# Relative error of the effective rank that is corrected for the number of rows, as the monitor promises.
CORRECTED = 0.02
# Distance from 1 of the effective rank of a float32 matrix of rank 1, whose other singular values are its rounding.
RANK_ONE = 1e-3
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
    assert found.effective_rank_of_rows == pytest.approx(float(np.exp(-(p * np.log(p)).sum())), rel=SINGLE)
    assert found.stable_rank == pytest.approx(float((s**2).sum() / s[0] ** 2), rel=SINGLE)
    assert found.frobenius == pytest.approx(float((s**2).sum() ** 0.5), rel=SINGLE)
    assert found.rows == 60


@pytest.mark.parametrize("shape", ["flat", "power law", "exponential", "few large", "mixed"])
@pytest.mark.parametrize("per_channel", [4, 8])
def test_the_effective_rank_is_that_of_the_covariance(shape, per_channel):
    channels = 128
    k, made = torch.arange(channels, dtype=torch.float64), torch.Generator().manual_seed(3)
    mix = torch.randn(channels, 60, generator=made, dtype=torch.float64)
    roots = {
        "flat": torch.where(k < 100, 1.0, 0.0),
        "power law": (1 + k) ** -0.5,
        "exponential": torch.exp(-k / 40),
        "few large": torch.where(k < 10, 1.0, 0.05),
        "mixed": torch.linalg.svdvals(mix),
    }[shape]
    true = float(measures.effective_rank_of(roots))
    rows = torch.randn(per_channel * channels, len(roots), generator=made, dtype=torch.float64) * roots
    found = activation_rank((rows + 5).float())
    assert found.effective_rank == pytest.approx(true, rel=CORRECTED)
    assert found.effective_rank_of_rows < found.effective_rank
    if per_channel == 4 and shape != "mixed":  # 60 directions only, with 8.5 rows each
        assert found.effective_rank_of_rows < (1 - CORRECTED) * true


def test_the_correction_removes_two_terms(tolerance):
    R, a, b, n = 37.0, -90.0, 300.0, 64
    ranks = [R + a * k / n + b * (k / n) ** 2 for k in (1, 2, 4)]
    assert _extrapolated(ranks, 100) == pytest.approx(R, rel=tolerance["rounding"])


@pytest.mark.parametrize("count", [2, 5, 8, 9, 30])
def test_few_rows_show_no_more_directions_than_they_span(count):
    made = torch.Generator().manual_seed(count)
    found = activation_rank(torch.randn(count, 400, generator=made))
    assert found.effective_rank_of_rows * (1 + SINGLE) >= 1
    assert found.effective_rank <= count - 1 + SINGLE
    equal = activation_rank(torch.ones(count, 3))
    assert (equal.effective_rank, equal.effective_rank_of_rows) == (0.0, 0.0)
    one = activation_rank(torch.randn(count, 1, generator=made) @ torch.ones(1, 3))
    assert one.effective_rank == pytest.approx(1.0, rel=RANK_ONE)


def test_rows_that_are_not_finite_have_no_measures():
    rows = torch.ones(4, 3)
    rows[1, 1] = torch.inf
    found = activation_rank(rows)
    assert np.isnan([found.effective_rank, found.effective_rank_of_rows, found.stable_rank, found.rankme]).all()
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
