"""Cut models that are rebuilt from a file: the layers that it names are replaced, and all weights are set."""

import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from ranklens.nn import saved
from ranklens.nn.attention import SeparateAttention, without_nested
from ranklens.nn.layer_kinds import plain_form
from ranklens.nn.low_rank import LowRank, empty_pair
from ranklens.nn.model_state import M, all_names, bare, copied, replaced
from ranklens.nn.pretrained import with_own_saving
from ranklens.nn.saved import WEIGHTS, classes, heads_of, plain_description
from ranklens.tensors.annotations import checked

# What to do about a model that does not fit the file.
REMEDY = "give a model of the architecture that was saved"


@checked
def restore(model: M, path: str | os.PathLike[str]) -> M:
    """Return a copy of a model with the cut layers and the weights that `Compression.save` wrote to a file.

    The outputs are those of the saved model, bit for bit, on the same device.

    Args:
        model: a model of the architecture that was compressed, with any weights, on a real device; it is not changed.
            Layers of classes that were registered by `register_layer` must be registered in this process too.
        path: the file, or a folder that `save_pretrained` of a cut model of transformers wrote.

    Returns:
        The copy. Weights have the dtypes of the file and the devices of the model; flags such as `training` and
        `requires_grad` are those of the model.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is damaged or none of `Compression.save`, or if the model is of another architecture; it
            names the first layer that differs.

    >>> import tempfile, torch, ranklens as rl
    >>> make = lambda: torch.nn.Sequential(torch.nn.Linear(32, 32), torch.nn.ReLU(), torch.nn.Linear(32, 4))
    >>> small = rl.nn.compress(make(), rank=2)
    >>> again = rl.nn.restore(make(), small.save(tempfile.mkdtemp() + "/small.safetensors"))
    >>> x = torch.ones(3, 32)
    >>> bool(torch.equal(again(x), small.model(x))), sum(p.numel() for p in again.parameters())
    (True, 236)
    """
    path = Path(path)
    structure, tensors = _read(path / WEIGHTS if path.is_dir() else path)
    model = copied(bare(model))  # type: ignore[assignment]  # what a wrapper holds
    try:
        return _rebuilt(model, structure, tensors)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is damaged: {type(error).__name__} {error}") from error


def _rebuilt(model: M, structure: dict[str, Any], tensors: dict[str, Tensor]) -> M:
    """Return a model with the layers and weights that a file describes, in place."""
    for name, heads in structure["attention"].items():
        model = _with_attention(model, name, heads)
    for name, description in structure["layers"].items():
        model = _with_pair(model, name, description)
    _check_classes(model, structure["classes"])
    tensors |= {alias: tensors[name] for alias, name in structure["shared"].items()}
    _fill(model, tensors)
    with_own_saving(model)
    return without_nested(model)


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return the structure and the tensors in a file.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is damaged or was not written by `save`.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    try:
        with safe_open(path, framework="pt") as stored:
            structure = saved.structure(stored.metadata())
            if structure is None:
                raise ValueError(f"path {path} was not written by Compression.save of this version")
            return structure, {name: stored.get_tensor(name) for name in sorted(stored.keys())}
    except (SafetensorError, json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{path} is no file of a compression, or damaged: {error}") from error


def _part(model: nn.Module, name: str) -> nn.Module:
    """Return the module of a name.

    Raises:
        ValueError: if there is none.
    """
    try:
        return model.get_submodule(name)
    except AttributeError as error:
        raise ValueError(f"the model has no layer {name!r}, which the file has; {REMEDY}") from error


def _with_attention(model: M, name: str, heads: dict[str, Any]) -> M:
    """Return a model in which an attention layer has separate projections, in place.

    Raises:
        ValueError: if the layer is no such layer, or another.
    """
    layer = _part(model, name)
    if type(layer) is not nn.MultiheadAttention or heads_of(layer) != heads:
        raise ValueError(f"layer {name!r} is {layer}, and in the file a MultiheadAttention with {heads}")
    made = SeparateAttention(layer)
    for place in all_names(model, layer):
        model = replaced(model, place, made)
    return model


def _with_pair(model: M, name: str, description: dict[str, Any]) -> M:
    """Return a model in which a layer is replaced by two of the rank that the file has, in place.

    Raises:
        ValueError: if the layer is another than in the file.
    """
    layer = _part(model, name)
    form = plain_form(layer)
    expected = {key: value for key, value in description.items() if key not in saved.OWN}
    if form is None:
        kind = type(layer).__name__
        raise ValueError(f"layer {name!r} is a {kind}, and in the file a {expected['class']}; {REMEDY}, before any cut")
    outputs = form.out_features if isinstance(form, nn.Linear) else form.out_channels
    found = plain_description(form, outputs)
    if found != expected:
        differ = [key for key in {**found, **expected} if found.get(key) != expected.get(key)]
        here, there = ({key: x.get(key) for key in differ} for x in (found, expected))
        raise ValueError(f"layer {name!r} has {here}, and in the file {there}; {REMEDY}")
    rank = description["rank"]
    if not isinstance(rank, int) or not 1 <= rank <= outputs:
        raise ValueError(f"layer {name!r} has {outputs} outputs, and in the file rank {rank!r}, so the file is damaged")
    before, after = empty_pair(form, rank, bool(description["bias"]))
    pair = LowRank.of(before, after, layer)
    for place in all_names(model, layer):
        model = replaced(model, place, pair)
    return model


def _check_classes(model: nn.Module, expected: dict[str, str]) -> None:
    """Refuse a model with other modules than the file.

    Raises:
        ValueError: if a module is missing, additional, or of another class.
    """
    found = classes(model)
    for name in {**expected, **found}:
        here, there = found.get(name, "missing"), expected.get(name, "missing")
        if here != there:
            raise ValueError(f"layer {name!r} is {here} in the model and {there} in the file; {REMEDY}")


@torch.no_grad()
def _fill(model: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Set all Parameters and persistent buffers of a model, in place.

    Raises:
        ValueError: if the names or shapes are others than those of the tensors; the first layer is named.
    """
    state = model.state_dict(keep_vars=True)
    for key in {**state, **tensors}:
        here, there = (x[key].shape if isinstance(x.get(key), Tensor) else None for x in (state, tensors))
        if here != there:
            layer, _, entry = key.rpartition(".")
            shapes = ["missing" if s is None else " x ".join(map(str, s)) or "a number" for s in (here, there)]
            raise ValueError(
                f"{entry!r} of layer {layer!r} is {shapes[0]} in the model and {shapes[1]} in the file; {REMEDY}"
            )
    for key, value in state.items():
        if value.is_meta:
            raise ValueError(f"{key!r} is on the meta device; make the model on a real device first")
        value.data = tensors[key].to(value.device)
