"""Files of cut models: the weights as safetensors, with the ranks and the structure as JSON. Nothing is pickled."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ranklens.files import atomic
from ranklens.nn.attention import SeparateAttention, without_nested
from ranklens.nn.composed import Composition
from ranklens.nn.layer_kinds import Truncatable, groups, is_conv_transpose, matrices, plain_form
from ranklens.nn.low_rank import LowRank, empty_pair
from ranklens.nn.model_state import M, all_names, bare, copied, replaced

# Written into every file, so that `restore` recognizes its own files and their version.
FORMAT = "ranklens compression 1"
# Options of a convolution that its weight does not show.
OPTIONS = ("stride", "padding", "dilation", "padding_mode", "groups", "output_padding")
# What to do about a model that does not fit the file.
REMEDY = "give a model of the architecture that was saved"
# Options of an attention layer that its weights do not show.
HEADS = ("num_heads", "batch_first", "add_zero_attn")


def save(model: nn.Module, path: str | os.PathLike[str]) -> Path:
    """Write the weights of a cut model and its structure to a safetensors file.

    The file has every Parameter and persistent buffer, and in its header the rank and options of each cut layer, the
    class of each module, and which entries share memory. An existing file is replaced in one step.

    Args:
        model: the smaller model of a `Compression`.
        path: the file; folders that do not exist are made.

    Returns:
        The path.

    Raises:
        ValueError: for a model with factored layers or modules with state that is no tensor; it names the layer.
    """
    for name, module in model.named_modules():
        if isinstance(module, Composition):
            layer = name.removesuffix("composition").removesuffix(".")
            raise ValueError(f"layer {layer!r} is factored, which the file cannot hold; call rl.nn.collapse first")
    tensors, shared = _tensors(model)
    structure = {
        "format": FORMAT,
        "layers": {name: _description(pair) for name, pair in _modules(model, LowRank)},
        "attention": {name: _heads(layer) for name, layer in _modules(model, SeparateAttention)},
        "classes": _classes(model),
        "shared": shared,
    }
    with atomic(path) as name:
        save_file(tensors, name, metadata={"structure": json.dumps(structure)})
    return Path(path)


def restore(model: M, path: str | os.PathLike[str]) -> M:
    """Return a copy of a model with the cut layers and the weights that `Compression.save` wrote to a file.

    The outputs are those of the saved model, bit for bit, on the same device.

    Args:
        model: a model of the architecture that was compressed, with any weights, on a real device; it is not changed.
            Layers of classes that were registered by `register_layer` must be registered in this process too.
        path: the file.

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
    structure, tensors = _read(Path(path))
    model = copied(bare(model))  # type: ignore[assignment]  # what a wrapper holds
    for name, heads in structure["attention"].items():
        model = _with_attention(model, name, heads)
    for name, description in structure["layers"].items():
        model = _with_pair(model, name, description)
    _check_classes(model, structure["classes"])
    tensors |= {alias: tensors[name] for alias, name in structure["shared"].items()}
    _fill(model, tensors)
    return without_nested(model)


def _modules(model: nn.Module, kind: type[Any]) -> Iterator[tuple[str, Any]]:
    """Yield the modules of a class with their first names."""
    yield from ((name, module) for name, module in model.named_modules() if isinstance(module, kind))


def _tensors(model: nn.Module) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors of a model by name, those that several names share once, and the other names of these."""
    tensors: dict[str, Tensor] = {}
    shared: dict[str, str] = {}
    first: dict[int, str] = {}
    for name, value in model.state_dict(keep_vars=True).items():
        if not isinstance(value, Tensor):
            layer = name.rpartition(".")[0]
            raise ValueError(
                f"layer {layer!r} has state that is a {type(value).__name__} instead of a tensor; it cannot be saved "
                f"without pickle, so save this model by its own means"
            )
        if id(value) in first:
            shared[name] = first[id(value)]
        else:
            first[id(value)] = name
            tensors[name] = value.detach().cpu().clone().contiguous()
    return tensors, shared


def _description(pair: LowRank) -> dict[str, Any]:
    """Return what tells a cut layer: the rank, and what the plain layer must be like."""
    first: Any = pair[0]
    last: Any = pair[1]
    _, outputs, rank = matrices(last).shape
    return {"rank": rank, "bias": last.bias is not None, **_plain_description(first, groups(first) * outputs)}


def _plain_description(layer: Truncatable, outputs: int) -> dict[str, Any]:
    """Return the class, sizes and options of a plain layer, as JSON holds them."""
    found: dict[str, Any] = {"class": type(layer).__name__, "outputs": outputs}
    if isinstance(layer, nn.Linear):
        return {**found, "inputs": layer.in_features}
    found |= {"inputs": layer.in_channels, "kernel_size": list(layer.kernel_size)}
    options = {name: getattr(layer, name) for name in OPTIONS if is_conv_transpose(layer) or name != OPTIONS[-1]}
    return found | {name: list(value) if isinstance(value, tuple) else value for name, value in options.items()}


def _heads(layer: nn.Module) -> dict[str, Any]:
    """Return the options of an attention layer, as JSON holds them."""
    return {name: getattr(layer, name) for name in HEADS}


def _classes(model: nn.Module) -> dict[str, str]:
    """Return the names of the classes of all modules, without those inside cut layers."""
    inside = tuple(f"{name}.".removeprefix(".") for name, _ in _modules(model, LowRank))
    return {n: type(m).__name__ for n, m in model.named_modules() if not f"{n}.".startswith(inside)}


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
            structure = json.loads((stored.metadata() or {}).get("structure", "{}"))
            if not isinstance(structure, dict) or structure.get("format") != FORMAT:
                raise ValueError(f"{path} was not written by Compression.save of this version")
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
    if type(layer) is not nn.MultiheadAttention or _heads(layer) != heads:
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
    expected = {key: value for key, value in description.items() if key not in ("rank", "bias")}
    if form is None:
        raise ValueError(f"layer {name!r} is a {type(layer).__name__}, and in the file a {expected['class']}")
    outputs = form.out_features if isinstance(form, nn.Linear) else form.out_channels
    found = _plain_description(form, outputs)
    if found != expected:
        differ = [key for key in {**found, **expected} if found.get(key) != expected.get(key)]
        here, there = ({key: x.get(key) for key in differ} for x in (found, expected))
        raise ValueError(f"layer {name!r} has {here}, and in the file {there}; {REMEDY}")
    before, after = empty_pair(form, description["rank"], description["bias"])
    pair = LowRank.of(before, after, layer)
    for place in all_names(model, layer):
        model = replaced(model, place, pair)
    return model


def _check_classes(model: nn.Module, classes: dict[str, str]) -> None:
    """Refuse a model with other modules than the file.

    Raises:
        ValueError: if a module is missing, additional, or of another class.
    """
    found = _classes(model)
    for name in {**classes, **found}:
        here, there = found.get(name, "missing"), classes.get(name, "missing")
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
