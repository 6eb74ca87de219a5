"""Explanations of fits say what was tried and decided."""

import numpy as np
import pytest
import xarray as xr
from completion_cases import planted

import ranklens as rl
from ranklens.completers.explanation import rises


def test_an_explanation_has_the_ladder_and_the_decisions(tolerance):
    X, _ = planted((50, 40), 2, 0.5, noise=0.1)
    completer = rl.MatrixCompleter().fit(X + 3)
    said = completer.explain()
    assert [rung.components for rung in said.ladder if rung.chosen] == [str(completer.rank_)]
    chosen = next(rung for rung in said.ladder if rung.chosen)
    assert chosen.error == pytest.approx(completer.rmse_["polish"], rel=tolerance["rounding"])
    assert dict(said.rmse) == completer.rmse_
    assert 0 <= said.biases <= 1
    assert list(said.rises[:2]) == sorted(said.rises[:2])
    text = str(said)
    assert "<- chosen" in text
    assert "with biases" in text
    assert ("posterior predicts" in text) == completer.posterior_
    if completer.posterior_:
        assert set(said.coverage) == {0.5, 0.8, 0.9, 0.95}
    titles = [axes.get_title(loc="left") for axes in rl.plot(completer).axes]
    assert titles == ["sizes tried", "stages of the fit", "rise of the components", "calibration"]


@pytest.mark.parametrize("X", [np.full((4, 5), 7.0), np.random.default_rng(0).standard_normal((20, 15))])
def test_fits_without_a_network_are_explained_too(X):
    completer = rl.MatrixCompleter(max_steps=50, biases=True).fit(X)
    text = str(completer.explain())
    assert ("fit the training entries exactly" in text) or ("The network was dropped" in text)
    assert len(rl.plot(completer).axes) == 4


@pytest.mark.slow
def test_tensors_and_tables_are_explained():
    indices = np.argwhere(np.ones((6, 5, 4)))
    values = indices[:, 0] * 1.0 + 0.1 * np.random.default_rng(0).standard_normal(len(indices))
    for estimator in (rl.TensorCompleter((6, 5, 4), max_steps=50), rl.EntryRegressor(max_steps=50)):
        assert "held-out errors: " in repr(estimator.fit(indices, values).explain())


def test_components_rise_when_they_reach_half_of_their_size():
    standing = np.array([[0.0, 0.0], [4.0, 0.1], [10.0, 1.0], [10.0, 3.0]])
    profile = xr.Dataset({"standing": (("step", "k"), standing)}, coords={"step": [0, 25, 50, 75]})
    assert rises(profile) == ((50, 75), (10.0, 3.0))
    assert rises(xr.Dataset()) == ((), ())
