"""Reading of the weights in a checkpoint: safetensors files and state dicts, whole or in shards.

No code in a file is run: files of `torch.save` are read with `weights_only=True`.
"""

import json
import os
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

# Keys under which training scripts store the state dict of the model, in order of preference.
MODEL_KEYS = ("model", "state_dict", "model_state_dict", "module", "net")
# A key that starts with one of these, in any case, holds the state of training rather than weights of the model.
TRAINING_KEYS = ("optim", "scheduler", "scaler")
# Files that are looked for in a folder, the preferred pattern first.
PATTERNS = ("*.safetensors.index.json", "*.safetensors", "*.index.json", "*.pt", "*.pth", "*.bin")


def load_weights(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Return the weights in a checkpoint, by name.

    A file that cannot be read or holds no state dict, and an index that does not fit its shards, are refused with a
    ValueError that names the file. A file of `torch.save` that holds other objects than tensors, numbers, strings and
    containers of them is refused too, because reading it would run code from the file.

    Args:
        path: one of: a .safetensors file; a file of `torch.save` that holds a state dict, or holds one under a key such
            as "model"; an index of shards (.index.json) whose shards are in the same folder; or a folder that contains
            one of these.

    Returns:
        {name: tensor}, on the CPU and with the dtypes of the file.

    Raises:
        FileNotFoundError: if the file does not exist. A missing shard, and a folder without a checkpoint, raise it too.

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
    """Return the checkpoint in a folder: the one file of the first pattern that any file matches."""
    for pattern in PATTERNS:
        found = sorted(folder.glob(pattern))
        if len(found) == 1:
            return found[0]
        if found:
            raise ValueError(f"{folder} has {len(found)} files {pattern} and no index; give the path of one of them")
    raise FileNotFoundError(f"{folder} has no checkpoint: no .safetensors, .pt, .pth, .bin or .index.json")


def _one(file: Path) -> dict[str, Tensor]:
    """Return the weights in a single file."""
    try:
        if file.suffix == ".safetensors":
            return dict(load_file(file))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # torch warns of a TorchScript archive before it refuses it
            found = torch.load(file, map_location="cpu", weights_only=True)
    except (SafetensorError, RuntimeError, OSError, EOFError, ValueError, KeyError) as error:
        if "TorchScript" in str(error):
            raise ValueError(
                f"{file} is a TorchScript archive, and loading it could run code; save model.state_dict() instead"
            ) from error
        raise ValueError(f"{file} cannot be read: {error}") from error
    except Exception as error:  # torch raises pickle.UnpicklingError for objects that are not allowed
        raise ValueError(
            f"{file} holds more than tensors, and loading it could run code; save model.state_dict() instead"
        ) from error
    weights = dict(_tensors(found))
    if not weights:
        raise ValueError(
            f"{file} holds no state dict; save a mapping of names to tensors, or one that has it under a key"
        )
    return weights


def _tensors(found: object) -> Iterator[tuple[str, Tensor]]:
    """Yield the names and tensors of a mapping.

    If the mapping holds no tensor itself, take the mapping under the first of `MODEL_KEYS` that holds tensors. In all
    other cases, take whichever has most tensors: the mapping itself or one of the mappings in it.

    Yields:
        Pairs (name, tensor); none if `found` is not a mapping.
    """
    if isinstance(found, dict):
        own = {str(name): value for name, value in found.items() if isinstance(value, Tensor)}
        inner = {
            str(k): dict(_tensors(v)) for k, v in found.items() if isinstance(v, dict) and not _is_training_state(k)
        }
        named = [inner[name] for name in MODEL_KEYS if inner.get(name)]
        yield from (named[0] if named and not own else max([own, *inner.values()], key=len)).items()


def _is_training_state(key: object) -> bool:
    """Return whether a key names the state of an optimizer, a scheduler or a gradient scaler."""
    return str(key).lower().startswith(TRAINING_KEYS)


def _shards(index: Path) -> dict[str, Tensor]:
    """Return the weights in all shards that an index names, in the order of the index."""
    try:
        names = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        files = sorted(set(names.values()))
        if not all(isinstance(name, str) for name in files):
            raise TypeError
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"{index} is no index of shards: it has no weight_map from names to file names") from error
    weights: dict[str, Tensor] = {}
    for name in files:
        shard = index.parent / name
        if Path(name).name != name:
            raise ValueError(
                f"{index} names {name!r}, which is not a file beside it; shards must be in the folder of the index"
            )
        if not shard.is_file():
            raise FileNotFoundError(f"{index} names {name!r}, which is not in its folder; put the shard there")
        weights |= _one(shard)
    for name, shard in names.items():
        if name not in weights:
            raise ValueError(f"{index} says that {shard!r} holds {name!r}, which it does not; the shard is damaged")
    return {name: weights[name] for name in names}
