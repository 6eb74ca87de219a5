"""Files of torch.save with more than weights in them, and what is refused."""

import argparse
import collections
import os
import pathlib
from contextlib import suppress

import numpy as np
import pytest
import torch
from torch import nn

from ranklens.nn.saved_networks import saved_networks

pytestmark = pytest.mark.usefixtures("initial_values")


class Settings(dict):
    """A dictionary with attributes, as configurations are."""


class Names(list):
    """A kind of list."""


class Net(nn.Module):
    """A model with a setting, which is saved whole."""

    def __init__(self):
        super().__init__()
        self.body, self.settings = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)), argparse.Namespace(width=3)


def state():
    return nn.Linear(3, 2).state_dict()


def configured():
    made = Settings(rate=0.1)
    made.origin = "here"
    return made


BESIDE = {
    "arguments": argparse.Namespace(lr=0.1, path=pathlib.PurePosixPath("runs")),
    "numpy scalar": np.float64(0.9),
    "history": [np.zeros(3), {"loss": np.float32(1)}],
    "counter": collections.Counter("aab"),
    "by default": collections.defaultdict(list, {"a": [1, 2]}),
    "configuration": configured(),
    "names": Names(["a", "b"]),
    "set": {1, 2},
    "dtype": torch.float16,
}


@pytest.mark.parametrize("kind", BESIDE)
def test_objects_beside_the_weights_are_left_out(tmp_path, kind):
    torch.save({"epoch": 3, "model": state(), "more": BESIDE[kind]}, tmp_path / "last.pth")
    assert list(saved_networks(tmp_path / "last.pth")) == ["weight", "bias"]


def test_networks_of_one_file_have_their_keys_before_their_names(tmp_path):
    model = nn.Linear(3, 2)
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    found = {
        "generator": model.state_dict(),
        "discriminators": [state(), {"0": {"w": torch.ones(2, 2)}}],
        "opt_g": optimizer.state_dict(),
        "adam": optimizer.state_dict(),
        "rng_state": torch.zeros(4, 4, dtype=torch.uint8),
        "epoch": 3,
    }
    torch.save(found, tmp_path / "gan.pt")
    assert set(saved_networks(tmp_path / "gan.pt")) == {
        *("generator.weight", "generator.bias"),
        *("discriminators.0.weight", "discriminators.0.bias", "discriminators.1.0.w"),
        "rng_state",
    }


def test_a_model_that_was_saved_whole_gives_its_tensors(tmp_path):
    net = Net()
    torch.save({"net": net, "args": argparse.Namespace()}, tmp_path / "whole.pt")
    found = saved_networks(tmp_path / "whole.pt")
    assert list(found) == list(net.state_dict())
    assert all(torch.equal(found[name], value) for name, value in net.state_dict().items())


def test_keys_that_read_alike_are_told_apart(tmp_path):
    torch.save({1: torch.ones(2, 2), "1": torch.ones(3, 3)}, tmp_path / "keys.pt")
    assert {name: len(x) for name, x in saved_networks(tmp_path / "keys.pt").items()} == {"1 (int)": 2, "1 (str)": 3}


def test_shared_and_circular_mappings_are_read_once(tmp_path):
    inner = {"w": torch.ones(2, 2)}
    for _ in range(60):  # 2^60 paths lead to the tensor
        inner = {"a": inner, "b": inner}
    inner["self"] = inner
    torch.save(inner, tmp_path / "shared.pt")
    assert list(saved_networks(tmp_path / "shared.pt")) == ["w"]


def test_optimizers_are_no_models(tmp_path):
    model = nn.Linear(3, 2)
    optimizer = torch.optim.SGD(model.parameters(), momentum=0.9)
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    torch.save(optimizer.state_dict(), tmp_path / "optimizer.pt")
    with pytest.raises(ValueError, match="holds the state of an optimizer, and no weights"):
        saved_networks(tmp_path / "optimizer.pt")


class Runs:
    """An object whose unpickling makes a folder."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (self.folder,)


class Called:
    """An object whose unpickling calls a function of another module."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return pathlib.Path.touch, (pathlib.Path(self.folder),)


@pytest.mark.parametrize("harmful", [Runs, Called])
def test_no_code_of_a_file_is_run(tmp_path, harmful):
    torch.save({"model": state(), "more": harmful(str(tmp_path / "made"))}, tmp_path / "evil.pt")
    with suppress(ValueError):
        assert list(saved_networks(tmp_path / "evil.pt")) == ["weight", "bias"]
    assert not (tmp_path / "made").exists()


def test_objects_in_files_of_the_old_format_are_left_out_too(tmp_path):
    found = {"model": state(), "args": argparse.Namespace(path=pathlib.PurePosixPath("x")), "rate": np.float64(1)}
    torch.save(found, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    assert list(saved_networks(tmp_path / "old.pt")) == ["weight", "bias"]
    torch.save({"model": state(), "more": Runs("made")}, tmp_path / "evil.pt", _use_new_zipfile_serialization=False)
    with pytest.raises(ValueError, match=r"posix\.mkdir|nt\.mkdir"):
        saved_networks(tmp_path / "evil.pt")


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (3, "an object of type int"),
        ({"x": 3}, "a mapping of int"),
        ({"x": np.ones((2, 2))}, r"arrays of numpy instead of tensors; save \{name: torch.from_numpy\(array\)\}"),
        ({}, "a mapping of nothing"),
        (argparse.Namespace(x=1), r"an object of the class argparse\.Namespace"),
        (torch.ones(2), "an object of type Tensor"),
    ],
)
def test_files_without_weights_say_what_they_hold(tmp_path, found, said):
    torch.save(found, tmp_path / "other.pt")
    with pytest.raises(ValueError, match=f"holds .*{said}"):
        saved_networks(tmp_path / "other.pt")
