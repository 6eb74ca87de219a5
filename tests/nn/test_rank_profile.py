"""Rank measures of weights against the measures of their matrices."""

import numpy as np
import pytest
import torch
from layer_cases import SAME
from safetensors.torch import save_file
from torch import nn

import ranklens as rl
from ranklens.nn import checkpoint

pytestmark = pytest.mark.usefixtures("initial_values")


def test_measures_are_those_of_the_matrices(tolerance):
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(20, 6)).double()
    found = rl.nn.rank_profile(net)
    assert list(found.weight.values) == ["0.weight", "2.weight"]
    for name, weight in (("0.weight", net[0].weight.flatten(1)), ("2.weight", net[2].weight)):
        row, W = found.sel(weight=name), weight.detach()
        assert float(row.effective_rank) == pytest.approx(float(rl.effective_rank(W)), rel=tolerance["rounding"])
        assert float(row.stable_rank) == pytest.approx(float(rl.stable_rank(W)), rel=tolerance["rounding"])
        assert int(row.numerical_rank) == int(rl.numerical_rank(W))
        s = torch.linalg.svdvals(W).numpy()
        np.testing.assert_allclose(row.spectrum.values[: len(s)], s, rtol=tolerance["rounding"])
        literal = next(k for k in range(1, len(s) + 1) if (s[:k] ** 2).sum() >= 0.99 * (s**2).sum())
        assert int(row.rank_kept) == literal
        assert int(row.parameters_kept) == min(W.numel(), literal * sum(W.shape))


def test_low_rank_is_below_the_control():
    low = torch.randn(40, 2, generator=torch.Generator().manual_seed(0)) @ torch.randn(2, 30)
    found = rl.nn.rank_profile({"low": low, "zero": torch.zeros(4, 3), "count": torch.tensor([[1, 2]])})
    assert list(found.weight.values) == ["low", "zero"]
    assert found.rank_kept.values.tolist() == [2, 0]
    assert float(found.effective_rank[0]) < 2.01
    assert float(found.random_effective_rank[0]) > 15
    assert float(found.effective_rank[1]) == float(found.stable_rank[1]) == 0


def test_a_composed_weight_counts_as_one():
    net = nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 4)).double()
    deep = rl.nn.overparameterize(net, where=["0"])
    found, plain = rl.nn.rank_profile(deep), rl.nn.rank_profile(net)
    assert set(found.weight.values) == {"0.weight", "1.weight"}
    for name in plain.weight.values:
        assert float(found.effective_rank.sel(weight=name)) == pytest.approx(
            float(plain.effective_rank.sel(weight=name)), rel=SAME
        )
    attention = rl.nn.overparameterize(nn.MultiheadAttention(8, 2))
    assert set(rl.nn.rank_profile(attention).weight.values) == {"in_proj_weight", "out_proj.weight"}


@pytest.mark.parametrize(
    ("weights", "options", "said"),
    [
        ({}, {}, "no weight with two axes"),
        ({"b": torch.ones(3)}, {}, "no weight with two axes"),
        ({"w": torch.full((2, 2), torch.nan)}, {}, "'w' has entries that are not finite"),
        ({"w": torch.ones(2, 2)}, {"energy": 0.0}, "energy is 0.0"),
    ],
)
def test_what_has_no_profile(weights, options, said):
    with pytest.raises(ValueError, match=said):
        rl.nn.rank_profile(weights, **options)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_numerical_rank_goes_by_the_precision_of_the_weight(dtype):
    made = torch.Generator().manual_seed(0)
    low = torch.randn(64, 3, generator=made, dtype=dtype) @ torch.randn(3, 64, generator=made, dtype=dtype)
    assert int(rl.nn.rank_profile({"low": low}).numerical_rank[0]) == 3


def test_one_tensor_that_cannot_be_measured_does_not_stop_the_others():
    weights = {"good": torch.eye(4), "mask": torch.full((3, 3), -torch.inf).triu(1), "ids": torch.ones(2, 2).int()}
    found = rl.nn.rank_profile(weights)
    assert found.weight.values.tolist() == ["good"]
    assert found.skipped["mask"] == "has entries that are not finite"
    assert "torch.int32" in found.skipped["ids"]


def test_models_mappings_arrays_and_files_have_one_profile(tmp_path):
    model = nn.Sequential(nn.Linear(6, 5), nn.Conv1d(3, 4, 2))
    state = model.state_dict()
    save_file(state, tmp_path / "model.safetensors")
    torch.save({"model": state, "epoch": 1}, tmp_path / "last.pt")
    arrays = {name: value.numpy() for name, value in state.items()}
    whole = rl.nn.rank_profile(model)
    for other in (state, arrays, tmp_path / "model.safetensors", str(tmp_path / "last.pt")):
        found = rl.nn.rank_profile(other)
        assert found.weight.values.tolist() == whole.weight.values.tolist()
        assert found.effective_rank.values.tolist() == whole.effective_rank.values.tolist()


def test_the_random_matrix_depends_on_the_shape_and_the_seed_alone():
    W = torch.randn(8, 6)
    first, second = (rl.nn.rank_profile({"a": W, "b": 2 * W.T, "c": torch.eye(seed + 2)}) for seed in (0, 1))
    assert len({float(x) for table in (first, second) for x in table.random_effective_rank[:2]}) == 1
    assert float(rl.nn.rank_profile({"a": W}, seed=1).random_effective_rank[0]) != float(first.random_effective_rank[0])


def test_progress_is_told():
    told = []
    rl.nn.rank_profile({"a": torch.eye(2), "b": torch.eye(2)}, progress=told.append)
    assert told == ["weight 1 of 2: a", "weight 2 of 2: b"]


def test_a_file_of_many_weights_is_read_one_at_a_time(tmp_path, monkeypatch):
    save_file({f"{k}": torch.eye(8) * k for k in range(1, 9)}, tmp_path / "many.safetensors")
    monkeypatch.setattr(checkpoint, "MOST_OPEN", 300)  # bytes: a file is opened again after two weights
    opened = []
    real = checkpoint.safe_open
    monkeypatch.setattr(checkpoint, "safe_open", lambda *a, **k: opened.append(1) or real(*a, **k))
    found = rl.nn.rank_profile(tmp_path / "many.safetensors")
    assert found.spectrum.values[:, 0].tolist() == pytest.approx([float(name) for name in found.weight.values])
    assert len(opened) >= 4
