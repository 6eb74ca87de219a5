"""Weights in files of every kind, whole, in shards, damaged and hostile."""

import json
import pickle

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import ranklens as rl
from ranklens.nn.checkpoint import StoredWeights

pytestmark = pytest.mark.usefixtures("initial_values")


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
    """An object whose unpickling runs code."""

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


def test_an_archive_of_torchscript_is_refused_with_a_remedy(tmp_path, recwarn):
    torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 2), torch.ones(1, 2)), tmp_path / "script.pt")
    recwarn.clear()
    with pytest.raises(ValueError, match=r"script\.pt is a TorchScript archive.* save model\.state_dict\(\) instead"):
        rl.nn.load_weights(tmp_path / "script.pt")
    assert not recwarn


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


def test_folders_of_training_runs_give_the_model(tmp_path):
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.Adam(model.parameters())
    torch.save(optimizer.state_dict(), tmp_path / "optimizer.pt")
    torch.save({"rng": torch.zeros(4)}, tmp_path / "rng_state.pth")
    torch.save({"lr": 0.1}, tmp_path / "training_args.bin")
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    assert list(rl.nn.load_weights(tmp_path)) == ["weight", "bias"]
    save_file({"w": torch.ones(2, 2)}, tmp_path / "model.safetensors")
    save_file({"v": torch.ones(2, 2)}, tmp_path / "model.fp16.safetensors")
    assert list(rl.nn.load_weights(tmp_path)) == ["w"]


def test_parts_without_an_index_are_one_model(tmp_path):
    for k in (1, 2, 3):
        save_file({f"w{k}": torch.ones(2, 2)}, tmp_path / f"model-{k:05}-of-00003.safetensors")
    for path in (tmp_path, tmp_path / "model-00002-of-00003.safetensors"):
        assert list(rl.nn.load_weights(path)) == ["w1", "w2", "w3"]
    (tmp_path / "model-00003-of-00003.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"one of 3 parts, and model-00003-of-00003\.safetensors is missing"):
        rl.nn.load_weights(tmp_path / "model-00001-of-00003.safetensors")


def test_weights_are_read_when_they_are_looked_up(tmp_path):
    save_file({"a": torch.ones(2, 2), "b": torch.zeros(3)}, tmp_path / "w.safetensors")
    stored = StoredWeights(tmp_path / "w.safetensors")
    assert list(stored) == ["a", "b"]
    assert len(stored) == 2
    assert torch.equal(stored["a"], torch.ones(2, 2))
    with pytest.raises(KeyError):
        stored["c"]


def test_content_counts_and_not_the_suffix(tmp_path):
    state = {"w": torch.ones(2, 3)}
    torch.save(state, tmp_path / "w.safetensors")
    save_file(state, tmp_path / "w.ckpt")
    for name in ("w.safetensors", "w.ckpt"):
        assert torch.equal(rl.nn.load_weights(tmp_path / name)["w"], state["w"])


def test_views_of_few_numbers_do_not_fill_the_memory(tmp_path):
    torch.save({"w": torch.ones(1).expand(2**20, 2**20)}, tmp_path / "spread.pt")
    assert rl.nn.load_weights(tmp_path / "spread.pt")["w"].shape == (2**20, 2**20)


def test_nested_tensors_are_named_beside_the_weights(tmp_path):
    nested = torch.nested.nested_tensor([torch.ones(2), torch.ones(3)], layout=torch.jagged)
    torch.save({"rows": nested, "w": torch.ones(3, 2)}, tmp_path / "w.pt")
    found = rl.nn.rank_profile(tmp_path / "w.pt")
    assert found.weight.values.tolist() == ["w"]
    assert "nested tensor" in found.skipped["rows"]
    assert set(rl.nn.load_weights(tmp_path / "w.pt")) == {"rows", "w"}


def test_an_index_that_was_not_fetched_says_so(tmp_path):
    index = tmp_path / "model.safetensors.index.json"
    index.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n")
    with pytest.raises(ValueError, match=r"index\.json is a pointer of git-lfs.*git lfs pull"):
        rl.nn.load_weights(tmp_path)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"weight_map": {}}', '{"weight_map": {"a": "' + "x" * 300 + '"}}'])
def test_damaged_indices_are_named(tmp_path, text):
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(text)
    with pytest.raises((ValueError, FileNotFoundError), match=r"model\.safetensors\.index\.json"):
        rl.nn.load_weights(index)


def test_tied_weights_are_measured_once(tmp_path):
    embed, head = torch.nn.Embedding(5, 4), torch.nn.Linear(4, 5, bias=False)
    head.weight = embed.weight
    torch.save(torch.nn.ModuleList([embed, head]).state_dict(), tmp_path / "tied.pt")
    found = rl.nn.rank_profile(tmp_path / "tied.pt")
    assert found.weight.values.tolist() == ["0.weight"]
    assert found.skipped == {"1.weight": "is '0.weight' once more"}
    assert len(rl.nn.load_weights(tmp_path / "tied.pt")) == 2


def test_folders_with_checkpoints_in_their_folders_name_these(tmp_path):
    for name in ("checkpoint-10", "checkpoint-200"):
        (tmp_path / name).mkdir()
        save_file({"w": torch.ones(2, 2)}, tmp_path / name / "model.safetensors")
    with pytest.raises(FileNotFoundError, match="its folders checkpoint-10, checkpoint-200 have some"):
        rl.nn.load_weights(tmp_path)


def shards(folder, where):
    """Write an index and two shards, and put a link to each of them into the folder."""
    folder.mkdir(parents=True)
    where.mkdir(parents=True, exist_ok=True)
    names = {"a.weight": "model-00001-of-00002.safetensors", "b.weight": "model-00002-of-00002.safetensors"}
    for tensor, name in names.items():
        save_file({tensor: torch.ones(2, 3)}, where / f"blob of {name}")
        (folder / name).symlink_to(where / f"blob of {name}")
    (where / "index").write_text(json.dumps({"weight_map": names}))
    (folder / "model.safetensors.index.json").symlink_to(where / "index")
    return folder


@pytest.mark.parametrize("below", ["", "unet"], ids=["snapshot", "folder in a snapshot"])
def test_links_of_a_cache_of_the_hub_are_followed(tmp_path, below):
    cache = tmp_path / "models--name"
    folder = shards(cache / "snapshots" / "abc" / below, cache / "blobs")
    first = folder / "model-00001-of-00002.safetensors"
    for path in (folder, folder / "model.safetensors.index.json", first):
        assert sorted(StoredWeights(path)) == ["a.weight", "b.weight"]


def test_links_out_of_a_folder_are_followed_only_if_they_are_named(tmp_path):
    folder = shards(tmp_path / "model", tmp_path / "elsewhere")
    for path in (folder, folder / "model.safetensors.index.json", folder / "model-00001-of-00002.safetensors"):
        with pytest.raises(ValueError, match=r"is a link to .*elsewhere.*outside of its folder"):
            StoredWeights(path)
    (tmp_path / "mine.safetensors").symlink_to(tmp_path / "elsewhere" / "blob of model-00001-of-00002.safetensors")
    assert list(StoredWeights(tmp_path / "mine.safetensors")) == ["a.weight"]
    (tmp_path / "linked").symlink_to(shards(tmp_path / "whole", tmp_path / "whole" / "files"))
    assert len(StoredWeights(tmp_path / "linked")) == 2


def test_links_to_missing_shards_are_named(tmp_path):
    cache = tmp_path / "models--name"
    folder = shards(cache / "snapshots" / "abc", cache / "blobs")
    (cache / "blobs" / "blob of model-00002-of-00002.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="a link to a missing file"):
        StoredWeights(folder)
