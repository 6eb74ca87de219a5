"""What a file of a cut model holds."""

import json

import pytest
from compression_cases import Encoder, convolutions
from safetensors import safe_open
from torch import nn

import ranklens as rl

pytestmark = pytest.mark.usefixtures("initial_values")


def structure_of(path):
    with safe_open(path, framework="pt") as stored:
        return json.loads(stored.metadata()["structure"]), list(stored.keys())


def test_the_header_is_json_that_tells_ranks_and_options(tmp_path):
    path = rl.nn.compress(convolutions(), rank=2).save(tmp_path / "small.safetensors")
    structure, names = structure_of(path)
    assert {name: layer["rank"] for name, layer in structure["layers"].items()} == {"0": 2, "3": 2, "4": 2, "7": 2}
    assert structure["layers"]["3"]["groups"] == 4
    assert structure["layers"]["3"]["bias"] is False
    assert structure["layers"]["4"]["class"] == "ConvTranspose2d"
    assert structure["classes"]["1"] == "BatchNorm2d"
    assert {"0.0.weight", "0.1.weight", "1.running_var"} <= set(names)


def test_what_modules_share_is_stored_once(tmp_path):
    path = rl.nn.compress(Encoder(), rank=2).save(tmp_path / "small.safetensors")
    structure, names = structure_of(path)
    assert structure["shared"] == {"head.weight": "words.weight"}
    assert "head.weight" not in names
    assert structure["attention"]["encoder.layers.0.self_attn"]["num_heads"] == 2


def test_what_a_file_cannot_hold_is_named(tmp_path):
    class Counting(nn.Linear):
        def get_extra_state(self):
            return {"calls": 3}

        def set_extra_state(self, state):
            pass

    small = rl.nn.compress(nn.Sequential(nn.Linear(20, 20), Counting(3, 3)), rank=2)
    with pytest.raises(ValueError, match="layer '1' has state that is a dict"):
        small.save(tmp_path / "small.safetensors")
    deep = rl.nn.overparameterize(nn.Sequential(nn.Linear(16, 16)), kind="cp")
    with pytest.raises(ValueError, match="layer '0' is factored"):
        rl.nn.prune(deep, 0.1).save(tmp_path / "small.safetensors")
    assert not list(tmp_path.iterdir())
