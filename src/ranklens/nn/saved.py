"""Files of cut models: the weights as safetensors, with the ranks and the structure as JSON. Nothing is pickled."""

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor, nn

from ranklens.files.writing import atomic
from ranklens.nn.attention import SeparateAttention
from ranklens.nn.composition import Composition
from ranklens.nn.layer_kinds import Truncatable, groups, is_conv_transpose, matrices
from ranklens.nn.low_rank import LowRank
from ranklens.nn.stored_parts import CutLayer

# Name of the file of weights in a folder. It is none that `from_pretrained` of transformers looks for, which would load
# the folder into the plain architecture and leave the cut layers with random weights.
WEIGHTS = "ranklens.safetensors"
# Written into every file, so that `restore` recognizes its own files and their version.
FORMAT = "ranklens compression 1"
# Entries of a description that tell of the two layers, and not of the layer before the cut.
OWN = ("rank", "bias", "transposed")
# Options of a convolution that its weight does not show.
OPTIONS = ("stride", "padding", "dilation", "padding_mode", "groups", "output_padding")
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
        "attention": {name: heads_of(layer) for name, layer in _modules(model, SeparateAttention)},
        "classes": classes(model),
        "shared": shared,
    }
    with atomic(path) as name:
        save_file(tensors, name, metadata={"structure": json.dumps(structure)})
    return Path(path)


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


def _description(pair: LowRank) -> dict[str, object]:
    """Return what tells a cut layer: the rank, and what the plain layer must be like."""
    first: Any = pair[0]
    last: Any = pair[1]
    _, outputs, rank = matrices(last).shape
    own = {"rank": rank, "bias": last.bias is not None, "transposed": pair.transposed}
    return {**own, **plain_description(first, groups(first) * outputs)}


def structure(header: Mapping[str, str] | None) -> dict[str, object] | None:
    """Return what the header of a file tells about cut layers, or None if `save` did not write the file.

    Args:
        header: the texts in the header of a safetensors file, by name.

    Returns:
        The entries "layers", "attention", "classes" and "shared".
    """
    try:
        told = json.loads((header or {}).get("structure", "{}"))
    except (json.JSONDecodeError, RecursionError):
        return None
    return told if isinstance(told, dict) and told.get("format") == FORMAT else None


def cut_layers(told: Mapping[str, object]) -> dict[str, CutLayer]:
    """Return how the two layers of each cut layer make its weight.

    Args:
        told: what `structure` returns.

    Returns:
        {name of the layer: how its weight is made}.
    """
    layers: Any = told["layers"]
    return {
        name: CutLayer(
            groups=int(layer.get("groups", 1)),
            is_conv_transpose=str(layer["class"]).startswith("ConvTranspose"),
            transposed=bool(layer.get("transposed", False)),
        )
        for name, layer in layers.items()
    }


def plain_description(layer: Truncatable, outputs: int) -> dict[str, object]:
    """Return the class, sizes and options of a plain layer, as JSON holds them.

    Args:
        layer: a Linear, Conv or ConvTranspose layer.
        outputs: number of its outputs, over all groups; that of `layer` itself is not used.

    Returns:
        The class by name, the numbers of outputs and inputs, and for a convolution its kernel size and options.
    """
    found: dict[str, object] = {"class": type(layer).__name__, "outputs": outputs}
    if isinstance(layer, nn.Linear):
        return {**found, "inputs": layer.in_features}
    found |= {"inputs": layer.in_channels, "kernel_size": list(layer.kernel_size)}
    options = {name: getattr(layer, name) for name in OPTIONS if is_conv_transpose(layer) or name != OPTIONS[-1]}
    return found | {name: list(value) if isinstance(value, tuple) else value for name, value in options.items()}


def heads_of(layer: nn.Module) -> dict[str, object]:
    """Return the options of an attention layer, as JSON holds them.

    Args:
        layer: a `torch.nn.MultiheadAttention`, or one with separate projections.

    Returns:
        The options that its weights do not show.
    """
    return {name: getattr(layer, name) for name in HEADS}


def classes(model: nn.Module) -> dict[str, str]:
    """Return the names of the classes of all modules, without those inside cut layers.

    A module that a model uses in several places comes once for each, because another model of the architecture may have
    modules of their own there that share their weights, as models of transformers do after `resize_token_embeddings`.

    Args:
        model: a model.

    Returns:
        The class of each module, by all its names.
    """
    every = dict(model.named_modules(remove_duplicate=False))
    inside = tuple(f"{name}.".removeprefix(".") for name, module in every.items() if isinstance(module, LowRank))
    return {name: type(module).__name__ for name, module in every.items() if not f"{name}.".startswith(inside)}
