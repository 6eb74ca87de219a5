"""Ranks of weights against the measures of their matrices, and checkpoints of every kind."""

import json
import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from typer.testing import CliRunner

import ranklens as rl
from ranklens.cli import app

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
        assert np.allclose(row.spectrum.values[: len(s)], s)
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
            float(plain.effective_rank.sel(weight=name)), rel=1e-9
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


def test_checkpoints_of_every_kind(tmp_path):
    net = nn.Linear(4, 3)
    state = net.state_dict()
    save_file(state, tmp_path / "a.safetensors")
    torch.save(state, tmp_path / "b.pt")
    torch.save({"epoch": 3, "model": state, "rest": {"x": torch.ones(1)}}, tmp_path / "c.bin")
    for name in ("a.safetensors", "b.pt", "c.bin"):
        found = rl.nn.load_weights(tmp_path / name)
        assert set(found) == set(state)
        assert all(torch.equal(found[key], state[key]) for key in state)


def test_shards(tmp_path):
    state = nn.Linear(4, 3).state_dict()
    save_file({"weight": state["weight"]}, tmp_path / "1.safetensors")
    save_file({"bias": state["bias"]}, tmp_path / "2.safetensors")
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"weight": "1.safetensors", "bias": "2.safetensors"}}))
    for path in (index, tmp_path):
        assert set(rl.nn.load_weights(path)) == {"weight", "bias"}
    index.write_text(json.dumps({"weight_map": {"weight": "../1.safetensors"}}))
    with pytest.raises(ValueError, match="not a file beside it"):
        rl.nn.load_weights(index)
    index.write_text(json.dumps({"weight_map": {"weight": "3.safetensors"}}))
    with pytest.raises(FileNotFoundError, match=r"3\.safetensors"):
        rl.nn.load_weights(index)
    index.write_text("[]")
    with pytest.raises(ValueError, match="no index of shards"):
        rl.nn.load_weights(index)


class Harmful:
    """What a hostile file could say."""

    def __reduce__(self):
        return (print, ("this was run",))


def test_nothing_is_unpickled(tmp_path, capsys):
    with (tmp_path / "evil.pt").open("wb") as file:
        pickle.dump({"w": Harmful()}, file)
    torch.save({"w": Harmful()}, tmp_path / "worse.pt")
    for name in ("evil.pt", "worse.pt"):
        with pytest.raises(ValueError, match=name):
            rl.nn.load_weights(tmp_path / name)
    assert "this was run" not in capsys.readouterr().out


@pytest.mark.parametrize(("name", "content"), [("a.safetensors", b"xx"), ("b.pt", b"not a checkpoint"), ("c.pt", b"")])
def test_damaged_files(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=name):
        rl.nn.load_weights(tmp_path / name)


def test_files_that_are_no_checkpoint(tmp_path):
    torch.save({"x": 3}, tmp_path / "numbers.pt")
    with pytest.raises(ValueError, match="holds no state dict"):
        rl.nn.load_weights(tmp_path / "numbers.pt")
    with pytest.raises(FileNotFoundError, match=r"other\.pt"):
        rl.nn.load_weights(tmp_path / "other.pt")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="has no checkpoint"):
        rl.nn.load_weights(tmp_path / "empty")
    torch.save({"x": 3}, tmp_path / "more.pt")
    with pytest.raises(ValueError, match="2 files"):
        rl.nn.load_weights(tmp_path)


@pytest.mark.parametrize("suffix", [".csv", ".json", ".nc"])
def test_the_command(tmp_path, suffix):
    file, out = tmp_path / "net.safetensors", tmp_path / f"ranks{suffix}"
    save_file({"layer.weight": torch.outer(torch.arange(1.0, 5.0), torch.ones(3)), "layer.bias": torch.ones(4)}, file)
    answer = CliRunner().invoke(app, ["rank", str(file), "--out", str(out)])
    assert answer.exit_code == 0, answer.output
    assert "layer.weight  4 x 3" in answer.output
    read = {".csv": pd.read_csv, ".json": pd.read_json, ".nc": lambda path: rl.load(path).to_dataframe().reset_index()}
    assert float(read[suffix](out)["effective_rank"].iloc[0]) == pytest.approx(1.0)
    assert CliRunner().invoke(app, ["rank", str(file), "--out", str(tmp_path / "ranks.png")]).exit_code == 0
    assert (tmp_path / "ranks.png").read_bytes().startswith(b"\x89PNG")
    assert CliRunner().invoke(app, ["rank", str(tmp_path / "none.pt")]).exit_code == 2
    assert CliRunner().invoke(app, ["rank", str(file), "--out", str(tmp_path / "x.txt")]).exit_code == 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_numerical_rank_goes_by_the_precision_of_the_weight(dtype):
    made = torch.Generator().manual_seed(0)
    low = torch.randn(64, 3, generator=made, dtype=dtype) @ torch.randn(3, 64, generator=made, dtype=dtype)
    assert int(rl.nn.rank_profile({"low": low}).numerical_rank[0]) == 3


def test_weights_are_found_beside_an_optimizer(tmp_path):
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    torch.save({"optimizer": optimizer.state_dict(), "model": model.state_dict()}, tmp_path / "last.pt")
    assert list(rl.nn.load_weights(tmp_path / "last.pt")) == ["weight", "bias"]


def test_indices_that_do_not_fit_their_shards_are_named(tmp_path):
    save_file({"a": torch.ones(2, 2)}, tmp_path / "one.safetensors")
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "one.safetensors", "b": "one.safetensors"}}))
    with pytest.raises(ValueError, match=r"'one\.safetensors' holds 'b', which it does not"):
        rl.nn.load_weights(index)
    index.write_text(json.dumps({"weight_map": {"a": 1}}))
    with pytest.raises(ValueError, match="is no index of shards"):
        rl.nn.load_weights(index)
