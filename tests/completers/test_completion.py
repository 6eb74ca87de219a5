import numpy as np
import pytest
import torch
from completion_cases import everything, observed, planted

import ranklens as rl
from ranklens.completers.completion import Settings, complete


def settings(**changes):
    return Settings.of(rl.TensorCompleter((2, 2), max_steps=300, **changes), seed=0)


def small_matrix(residual, dtype):
    return rl.init.scaled_(rl.deep_matrix(residual.shape, 2, 4, dtype=dtype), 1e-3)


@pytest.mark.parametrize("seed", [pytest.param(1, marks=pytest.mark.slow), pytest.param(2, marks=pytest.mark.slow), 9])
def test_the_last_network_is_polished_too(seed):
    """In these fits held-out entries stop the descent when two of the three components have grown.

    The network of the best step lacks the third component, that of the last step has it: only a polish of the last
    recovers the tensor up to the noise of 5%.
    """
    target = rl.targets.cp((6, 6, 6), 3, seed=seed)
    task = rl.Completion.sample(target, observed=120, noise=0.05 * float(target.std()), seed=seed)
    completer = rl.TensorCompleter((6, 6, 6), width=12, max_steps=400, random_state=seed)
    completer.fit(task.indices, task.values)
    assert completer.profile_.attrs["best_step"] < int(completer.profile_.step[-1])
    assert float(task.error(completer.network_)) < 0.06


def test_the_completion_is_in_the_units_of_the_data(tolerance):
    X, target = planted((20, 15), 1, 0.7, noise=0.05)
    found = complete(observed(X), small_matrix, settings())
    whole = found.scale * (found.net.tensor().detach().numpy() + found.biases.mean)
    assert np.linalg.norm(whole - target) < 0.05 * np.linalg.norm(target)
    assert found.rmse["polish"] <= found.rmse["descent"] < found.rmse["biases"]
    _, held_out = observed(X).split(0.1, seed=0)
    assert found.rmse["biases"] == pytest.approx(np.sqrt(held_out.mean_square()), rel=tolerance["rounding"])


def test_data_that_biases_fit_exactly_need_no_network():
    found = complete(everything(torch.zeros(6, 5).double() + 3), small_matrix, settings(biases=True))
    assert found.net is None
    assert found.rmse == {"biases": 0.0}
    assert found.scale * found.biases.mean == 3


def test_extreme_units_change_the_scale_only(tolerance):
    X, _ = planted((20, 15), 1, 0.7, noise=0.05)
    one, other = (complete(observed(X).times(unit), small_matrix, settings()) for unit in (1.0, 2.0**400))
    assert other.scale / 2.0**400 == pytest.approx(one.scale, rel=tolerance["rounding"])
    assert other.rmse["polish"] / 2.0**400 == pytest.approx(one.rmse["polish"], rel=tolerance["difference"])
