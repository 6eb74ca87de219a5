"""Weights in files of other programs: safetensors and state dicts, whole or in shards; nothing is unpickled."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

MODELS = ("model", "state_dict", "model_state_dict", "module", "net")  # under which training scripts keep weights


def load_weights(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Names and tensors of a checkpoint.

    Args:
        path: a .safetensors file; a file of `torch.save` with a state dict, or with one under a key such as "model"; an
            index of shards (.index.json), whose shards lie beside it; or a folder with one of these.

    Returns:
        {name: tensor} on the CPU.

    Raises:
        FileNotFoundError: if it, or a shard, is not there.
        ValueError: for a file that is none of these, holds more than tensors, or an index that leads out of its folder.

    >>> import tempfile, torch, ranklens as rl
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     torch.save({"epoch": 3, "model": torch.nn.Linear(2, 3).state_dict()}, f"{folder}/last.pt")
    ...     list(rl.nn.load_weights(f"{folder}/last.pt"))
    ['weight', 'bias']
    """
    file = Path(path)
    if file.is_dir():
        file = _within(file)
    if not file.is_file():
        raise FileNotFoundError(f"there is no checkpoint {file}")
    if file.name.endswith(".index.json"):
        return _shards(file)
    return _one(file)


def _within(folder: Path) -> Path:
    for pattern in ("*.safetensors.index.json", "*.safetensors", "*.index.json", "*.pt", "*.pth", "*.bin"):
        found = sorted(folder.glob(pattern))
        if len(found) == 1:
            return found[0]
        if found:
            raise ValueError(f"{folder} has {len(found)} files {pattern} and no index; name one of them")
    raise FileNotFoundError(f"{folder} has no checkpoint: no .safetensors, .pt, .pth, .bin or .index.json")


def _one(file: Path) -> dict[str, Tensor]:
    try:
        if file.suffix == ".safetensors":
            return dict(load_file(file))
        found = torch.load(file, map_location="cpu", weights_only=True)
    except (SafetensorError, RuntimeError, OSError, EOFError, ValueError, KeyError) as error:
        raise ValueError(f"{file} cannot be read: {error}") from error
    except Exception as error:  # torch has its own UnpicklingError
        raise ValueError(
            f"{file} holds more than tensors, and running what a file says is not safe; save model.state_dict()"
        ) from error
    weights = dict(_tensors(found))
    if not weights:
        raise ValueError(f"{file} holds no state dict: a mapping of names to tensors, itself or under one of its keys")
    return weights


def _tensors(found: Any) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a mapping, or else of that within it which is called as models are, or which has most."""
    if isinstance(found, dict):
        own = {str(name): value for name, value in found.items() if isinstance(value, Tensor)}
        inner = {str(k): dict(_tensors(v)) for k, v in found.items() if isinstance(v, dict) and not _is_optimizer(k)}
        named = [inner[name] for name in MODELS if inner.get(name)]
        yield from (named[0] if named and not own else max([own, *inner.values()], key=len)).items()


def _is_optimizer(name: Any) -> bool:
    return str(name).lower().startswith(("optim", "scheduler", "scaler"))


def _shards(index: Path) -> dict[str, Tensor]:
    try:
        names = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        files = sorted(set(names.values()))
        if not all(isinstance(name, str) for name in files):
            raise TypeError
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"{index} is no index of shards: it has no weight_map of names to files") from error
    weights: dict[str, Tensor] = {}
    for name in files:
        shard = index.parent / name
        if Path(name).name != name:
            raise ValueError(f"{index} names {name!r}, which is not a file beside it")
        if not shard.is_file():
            raise FileNotFoundError(f"{index} names {name!r}, which is not beside it")
        weights |= _one(shard)
    for name, shard in names.items():
        if name not in weights:
            raise ValueError(f"{index} says that {shard!r} holds {name!r}, which it does not; the shard is damaged")
    return {name: weights[name] for name in names}
