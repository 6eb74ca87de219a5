"""Batches of every form, and moments against literal formulas."""

import re
from types import SimpleNamespace

import pytest
import torch
from layer_cases import SAME, batch, off
from torch import nn

import ranklens as rl
from ranklens.nn import calibration
from ranklens.nn.calibration import Moments, Runs, evaluating, output_of, recalibrate_, watch

pytestmark = pytest.mark.usefixtures("initial_values")

# Relative error of moments of rows with an offset of 1e6, which costs six of the sixteen digits of the rows.
FAR = 1e-9


class Named(nn.Module):
    """A model with two arguments that returns an object."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(4, 3).double(), nn.Linear(3, 2).double()

    def forward(self, input_ids=None, attention_mask=None):
        hidden = self.first(input_ids)
        return SimpleNamespace(loss=None, logits=self.second(hidden * attention_mask))


X, MASK = batch(5, 4), batch(5, 3).relu()


@pytest.mark.parametrize(
    "data",
    [
        (X, MASK),
        {"input_ids": X, "attention_mask": MASK},
        [(X[:2], MASK[:2]), [X[2:], MASK[2:]]],
        iter([{"input_ids": X, "attention_mask": MASK}]),
        lambda model: model(X, attention_mask=MASK),
        lambda model: [model(X[:3], MASK[:3]), model(X[3:], MASK[3:])][0],
    ],
    ids=["tuple", "mapping", "list", "iterator", "function", "function of two batches"],
)
def test_data_of_every_form_run_the_model_any_number_of_times(data):
    model, runs, seen = Named(), Runs(data), []
    for _ in range(2):
        rows = []
        for run in runs:
            watch(run, model, {"second": model.second}, lambda _, x, y, rows=rows: rows.append(y))
        seen.append(torch.cat(rows))
    assert off(seen[0], model(X, MASK).logits) <= SAME
    assert torch.equal(seen[0], seen[1])


def test_a_tensor_and_a_loader_are_batches():
    model = nn.Linear(4, 3).double()
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(X), batch_size=2)
    for data in (X, loader, [X[:2], X[2:]]):
        assert sum(len(output_of(run(model))) for run in Runs(data)) == 5


def test_random_numbers_of_a_function_are_the_same_in_every_call():
    before = torch.get_rng_state()
    run = next(iter(Runs(lambda model: torch.rand(3))))
    assert torch.equal(run(nn.Identity()), run(nn.Identity()))
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    ("data", "error", "said"),
    [
        (3, TypeError, "data is of type int"),
        ([], ValueError, "no batches"),
        ([3], TypeError, "data has a batch of type int"),
        ([(X, MASK)], ValueError, "data has a batch with 2 positional arguments, which Linear.forward does not take"),
        ({"ids": X}, ValueError, "data has a batch with the arguments ids"),
    ],
)
def test_what_is_no_data_is_refused(data, error, said):
    with pytest.raises(error, match=said):
        list(map(lambda run: run(nn.Linear(4, 3).double()), Runs(data)))  # noqa: C417


def test_outputs_are_found_in_objects_and_mappings():
    for found in (X, SimpleNamespace(logits=X), SimpleNamespace(last_hidden_state=X), {"logits": X}):
        assert output_of(found) is X
    with pytest.raises(TypeError, match="gives a tuple"):
        output_of((X, X))


def test_a_model_stops_after_the_last_call_that_is_watched():
    model, seen = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)).double(), []
    model[2].register_forward_hook(lambda *_: seen.append(1))
    run = next(iter(Runs(X)))
    assert watch(run, model, {"1": model[1]}, lambda *_: None, {"1": 1}) is None
    assert not seen
    assert watch(run, model, {"1": model[1]}, lambda *_: None) is not None
    assert seen == [1]
    assert not model[1]._forward_hooks


def test_moments_in_parts_are_those_of_all_rows(monkeypatch):
    monkeypatch.setattr(calibration, "CHUNK", 40)
    rows, found = batch(2, 37, 5) + 1e6, Moments()
    for part in rows.split([1, 20, 0, 16], dim=1):
        found.add(part)
    assert found.count == 37
    centred = rows - rows.mean(1, keepdim=True)
    assert off(found.mean, rows.mean(1)) <= SAME
    assert off(found.covariance, centred.mT @ centred / 37) <= FAR
    others = batch(2, 37, 3, seed=1) - 1e6
    both = Moments()
    for part, other in zip(rows.split(10, dim=1), others.split(10, dim=1), strict=True):
        both.add(part, other)
    aside = others - others.mean(1, keepdim=True)
    assert off(both.mean_of_others, others.mean(1)) <= SAME
    assert off(both.cross, aside.mT @ centred) <= FAR
    assert off(both.scatter_of_others, aside.square().sum(1)) <= FAR
    assert off(both.covariance, found.covariance) <= FAR
    assert found.is_finite()
    found.add(torch.full((2, 1, 5), torch.nan))
    assert not found.is_finite()


def test_evaluation_mode_is_restored_and_running_statistics_are_averages():
    model = nn.Sequential(nn.BatchNorm1d(4, momentum=0.3), nn.Dropout(0.5), nn.BatchNorm1d(4)).double()
    model[2].eval()
    with evaluating(model):
        assert not any(module.training for module in model.modules())
        assert not torch.is_grad_enabled()
    assert [module.training for module in model] == [True, True, False]
    recalibrate_(model, Runs([X[:2], X[2:4]]))
    expected = (X[:2].mean(0) + X[2:4].mean(0)) / 2
    assert off(model[0].running_mean, expected) <= SAME
    assert off(model[0].running_var, (X[:2].var(0) + X[2:4].var(0)) / 2) <= SAME
    assert (model[0].momentum, model[0].training, model[2].training) == (0.3, True, False)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (torch.ones(4, 7), "(4, 7) float32: mat1 and mat2"),
        (torch.ones(4, 16, dtype=torch.float64), "(4, 16) float64"),
        ({"input": torch.ones(4, 7)}, "(4, 7) float32"),
    ],
)
def test_data_that_do_not_fit_the_model_are_named(data, said):
    with pytest.raises(ValueError, match=f"does not run on a batch of data of {re.escape(said)}"):
        rl.nn.compress(nn.Linear(16, 16), rank=2, data=data)
