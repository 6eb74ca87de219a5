"""Files of cut models: equal outputs after a round trip, and models that do not fit."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from compression_cases import MODELS, Several, convolutions
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

import ranklens as rl

pytestmark = pytest.mark.usefixtures("initial_values")


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("with_data", [True, False])
def test_outputs_after_a_round_trip_are_equal(kind, with_data, tmp_path):
    make, x = MODELS[kind]
    small = rl.nn.compress(make().eval(), rank=3, **({"data": x} if with_data else {}))
    assert not small.table.reason.values.all()
    again = rl.nn.restore(make().eval(), small.save(tmp_path / "new" / "small.safetensors"))
    with torch.no_grad():
        assert torch.equal(again(x), small.model(x))
    assert [name for name, _ in again.named_parameters()] == [name for name, _ in small.model.named_parameters()]
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["small.safetensors"]


@pytest.mark.slow
def test_a_fresh_process_restores_every_model(tmp_path):
    for kind, (make, x) in MODELS.items():
        small = rl.nn.compress(make().eval(), rank=3, data=x)
        small.save(tmp_path / f"{kind}.safetensors")
        with torch.no_grad():
            save_file({"y": small.model(x).contiguous()}, tmp_path / f"{kind}.outputs.safetensors")
    code = """
import sys, torch, ranklens as rl
from safetensors.torch import load_file
from compression_cases import MODELS
torch.set_num_threads(1)
for kind, (make, x) in MODELS.items():
    model = rl.nn.restore(make().eval(), f"{sys.argv[1]}/{kind}.safetensors")
    with torch.no_grad():
        print(kind, bool(torch.equal(model(x), load_file(f"{sys.argv[1]}/{kind}.outputs.safetensors")["y"])))
"""
    call = [sys.executable, "-c", code, str(tmp_path)]
    paths = str(Path(__file__).parents[1])
    answer = subprocess.run(call, capture_output=True, text=True, check=True, env={"PYTHONPATH": paths})
    assert answer.stdout.splitlines() == [f"{kind} True" for kind in MODELS], answer.stderr


def test_the_model_that_is_given_stays_and_keeps_its_flags(tmp_path):
    make, _ = MODELS["encoder"]
    path = rl.nn.compress(make(), rank=3).save(tmp_path / "small.safetensors")
    fresh = make().requires_grad_(False)
    before = fresh.encoder.layers[0].linear1.weight.clone()
    again = rl.nn.restore(torch.compile(fresh, backend="eager"), path)
    assert torch.equal(fresh.encoder.layers[0].linear1.weight, before)
    assert again.head.weight is again.words.weight
    assert not any(p.requires_grad for p in again.parameters())
    assert again.training


def changed(change):
    model = convolutions()
    change(model)
    return model


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: nn.Sequential(nn.Conv2d(3, 16, 3, padding=1)), "no layer '3'"),
        (lambda: changed(lambda m: setattr(m[0], "padding", (2, 2))), r"layer '0' has \{'padding': \[2, 2\]\}"),
        (lambda: changed(lambda m: m.__setitem__(0, nn.Conv2d(3, 24, 3, padding=1))), r"layer '0' has \{'outputs': 24"),
        (
            lambda: changed(lambda m: m.__setitem__(0, nn.Identity())),
            "layer '0' is a Identity, and in the file a Conv2d",
        ),
        (lambda: changed(lambda m: m.__setitem__(2, nn.GELU())), "layer '2' is GELU in the model and ReLU"),
        (
            lambda: changed(lambda m: m.__setitem__(1, nn.BatchNorm2d(9))),
            "'weight' of layer '1' is 9 in the",
        ),
        (lambda: changed(lambda m: m.append(nn.ReLU())), "layer '8' is ReLU in the model and missing"),
    ],
)
def test_another_architecture_is_refused_by_the_name_of_a_layer(make, said, tmp_path):
    path = rl.nn.compress(convolutions(), rank=2).save(tmp_path / "small.safetensors")
    with pytest.raises(ValueError, match=said):
        rl.nn.restore(make(), path)


def test_attention_of_another_kind_is_refused(tmp_path):
    path = rl.nn.compress(Several(nn.MultiheadAttention(16, 2)), rank=2).save(tmp_path / "small.safetensors")
    for other in (nn.MultiheadAttention(16, 4), nn.Linear(16, 16)):
        with pytest.raises(ValueError, match="layer 'layer' is"):
            rl.nn.restore(Several(other), path)


def test_files_of_others_and_damaged_ones_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError):
        rl.nn.restore(convolutions(), tmp_path / "none.safetensors")
    save_file({"x": torch.ones(2)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="was not written by"):
        rl.nn.restore(convolutions(), tmp_path / "other.safetensors")
    path = rl.nn.compress(convolutions(), rank=2).save(tmp_path / "small.safetensors")
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match="damaged"):
        rl.nn.restore(convolutions(), path)


def test_a_model_without_memory_is_refused(tmp_path):
    path = rl.nn.compress(convolutions(), rank=2).save(tmp_path / "small.safetensors")
    with pytest.raises(ValueError, match="meta device"):
        rl.nn.restore(convolutions().to("meta"), path)


@pytest.mark.parametrize(
    "change",
    [
        lambda structure: structure.pop("layers"),
        lambda structure: structure.update(shared={"x": "none"}),
        lambda structure: structure["layers"]["0"].update(rank=10**9),
        lambda structure: structure["layers"]["0"].pop("rank"),
        lambda structure: structure.update(attention=3),
        lambda structure: structure.update(layers={"0": 3}),
    ],
)
def test_a_damaged_header_is_said_so(change, tmp_path):
    path = rl.nn.compress(convolutions(), rank=2).save(tmp_path / "small.safetensors")
    with safe_open(path, framework="pt") as stored:
        structure = json.loads(stored.metadata()["structure"])
        tensors = {name: stored.get_tensor(name) for name in list(stored.keys())}
    change(structure)
    save_file(tensors, path, metadata={"structure": json.dumps(structure)})
    with pytest.raises(ValueError, match="damaged"):
        rl.nn.restore(convolutions(), path)


def test_a_model_that_is_cut_already_is_refused_with_the_remedy(tmp_path):
    small = rl.nn.compress(nn.Linear(20, 20), rank=2)
    path = small.save(tmp_path / "small.safetensors")
    with pytest.raises(ValueError, match="is a LowRank, and in the file a Linear; give a model of the architecture"):
        rl.nn.restore(small.model, path)
