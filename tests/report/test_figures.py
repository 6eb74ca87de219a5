import numpy as np
import pytest
import torch
import xarray as xr

import ranklens as rl
from ranklens import studies
from ranklens.drawing import tables


def measured():
    """One record or table of every kind that the library makes from a network, by its maker."""
    layers = torch.nn.Sequential(torch.nn.Linear(6, 6), torch.nn.ReLU(), torch.nn.Linear(6, 3))
    inputs = torch.linspace(-1, 1, 60).reshape(10, 6)
    monitor = rl.nn.RankMonitor(layers, share=1.0)
    layers(inputs).sum().backward()
    monitor.step()
    weights = [{"a": torch.eye(4) + k * torch.ones(4, 4)} for k in range(2)]
    return {
        "rank_profile": rl.nn.rank_profile(layers),
        "rank_difference": rl.nn.rank_difference(*weights),
        "compress": rl.nn.compress(layers, budget=0.8).table,
        "compressibility": rl.nn.compressibility(layers, inputs),
        "pareto": rl.nn.pareto(layers, batch=inputs, energies=(1.0, 0.5)),
        "factorable": rl.nn.factorable(layers),
        "monitor": monitor.record(),
    }


@pytest.mark.usefixtures("initial_values")
def test_every_kind_of_measurement_has_a_figure():
    for name, found in measured().items():
        panels = [axes for axes in rl.plot(found).axes if axes.get_visible()]
        assert panels, name
        assert all(axes.lines or axes.patches for axes in panels), name
        assert found.rl._repr_svg_().startswith("<svg"), name


def test_runs_of_an_ensemble_have_a_line_per_member():
    ensemble = rl.stack([rl.deep_matrix((2, 2), 2, std=0.1, seed=k) for k in range(3)])
    optimizer = torch.optim.SGD(ensemble.parameters(), lr=0.1)
    run = rl.gradient_descent(ensemble, rl.Completion.counterexample(), optimizer, steps=4, every=2)
    [loss] = rl.plot(run).axes
    assert [text.get_text() for text in loss.get_legend().get_texts()] == ["member 0", "member 1", "member 2"]


def test_a_record_of_a_study_gets_the_figure_of_its_study():
    record = studies.perform("penalty_trap", studies.preset("penalty_trap", "tiny"))
    shown, own = rl.plot(record), studies.load("penalty_trap").draw(record)
    assert [axes.get_title(loc="left") for axes in shown.axes] == [axes.get_title(loc="left") for axes in own.axes]
    with pytest.raises(ValueError, match="ends is True, and this is no sweep"):
        rl.plot(record, ends=True)


def test_a_dataset_of_another_kind_is_refused_with_the_kinds_that_there_are():
    with pytest.raises(ValueError, match=f"and a table one of {', '.join(tables.ROWS)}"):
        rl.plot(xr.Dataset({"x": ("y", np.ones(2))}))
