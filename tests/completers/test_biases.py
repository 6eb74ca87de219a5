import numpy as np
import torch

from ranklens.completers.biases import fit_biases, no_biases
from ranklens.completers.observed import Observed


def random_entries():
    made = np.random.default_rng(0)
    rows, columns, values = made.integers(0, 6, 30), made.integers(0, 5, 30), made.standard_normal(30)
    return (
        rows,
        columns,
        values,
        Observed(torch.from_numpy(np.stack([rows, columns], axis=1)), torch.from_numpy(values), (6, 5)),
    )


def test_biases_by_literal_loops(tolerance):
    rows, columns, values, observed = random_entries()
    damping, mean = 2.0, values.mean()
    b, c = np.zeros(6), np.zeros(5)
    for _ in range(200):
        for i in range(6):
            b[i] = sum(values[k] - mean - c[columns[k]] for k in range(30) if rows[k] == i) / (sum(rows == i) + damping)
        for j in range(5):
            c[j] = sum(values[k] - mean - b[rows[k]] for k in range(30) if columns[k] == j) / (
                sum(columns == j) + damping
            )
    found = fit_biases(observed, damping).adapted(observed, 200)
    assert np.allclose(found.modes[0].numpy(), b, atol=tolerance["rounding"])
    assert np.allclose(found.modes[1].numpy(), c, atol=tolerance["rounding"])
    assert np.allclose(found.at(observed.indices).numpy(), mean + b[rows] + c[columns], atol=tolerance["rounding"])


def test_biases_scale_with_the_values(tolerance):
    *_, observed = random_entries()
    one, other = fit_biases(observed, 1.0).times(3.0), fit_biases(observed.times(3.0), 1.0)
    assert torch.allclose(one.at(observed.indices), other.at(observed.indices), rtol=tolerance["rounding"])


def test_no_biases_stay_zero():
    *_, observed = random_entries()
    assert not no_biases((6, 5)).adapted(observed).at(observed.indices).any()
