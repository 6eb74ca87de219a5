"""Attempts of a fit: which one is taken, and what is said of it."""

import numpy as np
import pytest
from completion_cases import planted

import ranklens as rl


@pytest.mark.parametrize(("offset", "kind"), [(0.0, "without biases"), (50.0, "with biases")])
def test_the_model_that_predicts_better_is_taken(offset, kind):
    X, _ = planted((40, 30), 2, 0.6, noise=0.02)
    completer = rl.MatrixCompleter(max_steps=500, posterior=0).fit(X + offset)
    said = completer.explain()
    assert said.decisions[0].startswith(f"The model is {kind};")
    assert np.isfinite(completer._fitted.damping) == (kind == "with biases")
    assert completer.rank_ == 2


@pytest.mark.slow
def test_errors_are_those_of_the_chosen_sizes(tolerance):
    X, _ = planted((40, 30), 2, 0.6, noise=0.1)
    completer = rl.MatrixCompleter(max_steps=500, biases=False).fit(X)
    errors = {rung.components: rung.error for rung in completer.explain().ladder}
    assert errors[str(completer.rank_)] == pytest.approx(completer.rmse_["polish"], rel=tolerance["rounding"])
    assert min(errors.values()) > 0.99 * completer.rmse_["polish"]
