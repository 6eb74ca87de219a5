"""Changes between two checkpoints, built to have known ranks and known directions."""

import math

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import ranklens as rl

pytestmark = pytest.mark.usefixtures("initial_values")

# Relative error of measures in float32, and of angles in degrees.
SINGLE = 1e-4


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def row(before, after, **options):
    return rl.nn.rank_difference({"w": before}, {"w": after}, **options).isel(weight=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("rank", [1, 4])
def test_a_change_of_low_rank_is_counted_above_rounding(dtype, rank):
    W = normal(60, 40).double()
    change = 3 * normal(60, rank, seed=1).double() @ normal(rank, 40, seed=2).double()
    found = row(W.to(dtype), (W + change).to(dtype))
    assert int(found.numerical_rank) == rank
    stored = (W + change).to(dtype).double() - W.to(dtype).double()
    assert float(found.change) == pytest.approx(float(stored.norm() / W.to(dtype).double().norm()), rel=SINGLE)
    assert float(found.effective_rank) == pytest.approx(float(rl.effective_rank(stored)), rel=SINGLE)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_8_bit_weights_are_compared_as_the_numbers_that_they_hold(dtype):
    W, change = 4 * normal(60, 40), 40 * normal(60, 1, seed=1) @ normal(1, 40, seed=2)
    before, after = W.to(dtype), (W + change).to(dtype)
    found = row(before, after)
    assert int(found.numerical_rank) == 1
    stored = after.double() - before.double()
    assert float(found.change) == pytest.approx(float(stored.norm() / before.double().norm()), rel=SINGLE)
    assert int(row(before, before.float()).numerical_rank) == 0
    broken = torch.full((60, 40), math.nan).to(dtype)
    table = rl.nn.rank_difference({"w": W, "v": before}, {"w": W, "v": broken})
    assert table.skipped == {"v": "has entries that are not finite"}


def test_nothing_changed():
    W = normal(9, 7)
    found = row(W, W.clone())
    assert int(found.numerical_rank) == int(found.intruders) == 0
    assert float(found.change) == 0
    assert float(found.largest_angle) < 0.1
    zero = row(torch.zeros(3, 3), torch.zeros(3, 3))
    assert float(zero.change) == 0
    assert math.isnan(float(zero.largest_angle))
    assert math.isinf(float(row(torch.zeros(3, 3), torch.eye(3)).change))


@pytest.mark.parametrize("angle", [10.0, 40.0, 80.0])
@pytest.mark.parametrize("wide", [False, True])
def test_a_rotation_of_the_leading_directions_is_its_angle(angle, wide):
    s = torch.diag(torch.tensor([8.0, 7, 1, 0.5, 0.1, 0.05]))
    turn = torch.eye(6)
    c, d = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    turn[1, 1], turn[1, 2], turn[2, 1], turn[2, 2] = c, -d, d, c
    W = torch.cat([s, torch.zeros(3, 6)])
    before, after = W, W @ turn.T
    found = row(before.T, after.T, leading=2) if wide else row(before, after, leading=2)
    assert int(found.compared) == 2
    assert float(found.largest_angle) == pytest.approx(angle, rel=SINGLE)
    assert float(found.mean_angle) == pytest.approx(angle / 2, rel=SINGLE)


@pytest.mark.parametrize("side", ["rows", "columns"])
def test_intruders_are_counted_on_either_side(side):
    W = torch.diag(torch.arange(16.0, 0.0, -1.0))
    spread, at = torch.ones(16) / 4, torch.zeros(16)
    at[15] = 1.0
    new = 40 * (torch.outer(spread, at) if side == "rows" else torch.outer(at, spread))
    found = row(W, W + new, leading=3)
    assert int(found.intruders) == 1
    assert int(row(W, W + 40 * torch.outer(at, at), leading=3).intruders) == 0
    assert int(row(W, W + new, leading=3, far=0.05).intruders) == 0


def test_weights_that_cannot_be_compared_are_listed(tmp_path):
    before = {"a": normal(4, 3), "b": normal(4, 3), "c": normal(4, 3), "gone": normal(2, 2), "n": normal(2, 2)}
    after = {"a": normal(4, 3, seed=1), "b": normal(3, 3), "c": normal(4, 3).int(), "new": normal(2, 2)}
    after["n"] = torch.full((2, 2), torch.nan)
    save_file(before, tmp_path / "before.safetensors")
    torch.save({"model": after}, tmp_path / "after.pt")
    found = rl.nn.rank_difference(tmp_path / "before.safetensors", tmp_path / "after.pt")
    assert found.weight.values.tolist() == ["a"]
    assert found.skipped == {
        "b": "has shape (3, 3), and (4, 3) in the earlier model",
        "c": "has entries of torch.int32; if they are a quantized weight, dequantize it first",
        "new": "is in the later model only",
        "n": "has entries that are not finite",
        "gone": "is in the earlier model only",
    }


def test_wrappers_do_not_make_other_names():
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU())
    found = rl.nn.rank_difference(model, torch.compile(nn.DataParallel(model), backend="eager"))
    assert found.weight.size == 1
    base, W = "base_model.model.q.base_layer.weight", normal(4, 3)
    assert rl.nn.rank_difference({"q.weight": W}, {base: 2 * W}).weight.values.tolist() == [base]


def test_experts_are_compared_one_by_one():
    before = {"experts": normal(3, 5, 4)}
    after = {"experts": before["experts"].clone()}
    after["experts"][1] += torch.outer(torch.ones(5), torch.ones(4))
    found = rl.nn.rank_difference(before, after)
    assert found.weight.values.tolist() == ["experts", "experts[0]", "experts[1]", "experts[2]"]
    assert found.numerical_rank.values.tolist() == [0, 0, 1, 0]


@pytest.mark.parametrize(
    ("options", "said"),
    [({"leading": 0}, "leading is 0"), ({"far": 0.0}, "far is 0"), ({"energy": 2.0}, "energy is 2")],
)
def test_arguments_out_of_range_are_refused(options, said):
    with pytest.raises(ValueError, match=said):
        row(torch.eye(3), torch.eye(3), **options)


def test_models_without_a_common_name_are_refused():
    with pytest.raises(ValueError, match=r"before has \['a'\], after has \['b'\]"):
        rl.nn.rank_difference({"a": torch.eye(3)}, {"b": torch.eye(3)})
