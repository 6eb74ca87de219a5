"""The number of heads of an attention layer, from the configuration of its model."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from ranklens.nn.attention import SeparateAttention
from ranklens.nn.rank_profile import Weights

# Names under which configurations give the number of heads, and the number of heads of keys and values.
HEADS = ("num_attention_heads", "n_head", "n_heads", "num_heads")
KEY_HEADS = ("num_key_value_heads", "num_kv_heads", "n_head_kv")
# Names of the same in one half of an encoder and decoder, by the half.
HALVES = {"encoder": ("encoder_attention_heads",), "decoder": ("decoder_attention_heads",)}
# Words in the name of a layer that say which part of a configuration describes it, beside the name of the part.
WORDS = {"text": ("text", "language", "llm"), "llm": ("llm", "language", "text"), "vision": ("vision", "visual")}


@dataclass(frozen=True)
class Heads:
    """The number of heads of an attention layer.

    Attributes:
        queries: number of heads of queries.
        keys: number of heads of keys and values, which several heads of queries may share.
    """

    queries: int
    keys: int


def head_counts(model: Weights, layer: str, heads: int | None = None) -> Heads:
    """Return the number of heads of an attention layer.

    A MultiheadAttention of torch knows its number. For other layers the configuration of the model says it: the
    attribute `config` of a module, or the file config.json beside a checkpoint. Where it has parts, such as text_config
    and vision_config, the part that the name of the layer speaks of counts.

    Args:
        model: a module, a mapping of names to tensors, or the path of a checkpoint.
        layer: name of the layer.
        heads: number of heads of queries if it is known; keys and values have as many unless the configuration says
            otherwise.

    Raises:
        ValueError: if the number is neither given nor found, or the configuration is damaged.

    >>> import torch
    >>> head_counts(torch.nn.MultiheadAttention(8, 2, device="meta"), "")
    Heads(queries=2, keys=2)
    """
    if heads is None and isinstance(model, nn.Module):
        own = dict(model.named_modules()).get(layer)
        if isinstance(own, nn.MultiheadAttention | SeparateAttention):
            return Heads(own.num_heads, own.num_heads)
    told = _part(_configuration(model), layer)
    half = next((HALVES[part] for part in layer.split(".") if part in HALVES), ())
    queries = heads or _first(told, (*half, *HEADS))
    if queries is None:
        raise ValueError(
            f"the number of attention heads is not known for layer {layer!r}: there is no configuration with "
            f"num_attention_heads; give heads= (--heads)"
        )
    keys = 1 if told.get("multi_query") is True else _first(told, KEY_HEADS)
    return Heads(queries, keys or queries)


def _part(told: Mapping[str, object], layer: str) -> Mapping[str, object]:
    """Return the part of a configuration that describes a layer; the configuration itself if it has no parts."""
    parts = {
        name.removesuffix("_config"): value
        for name, value in told.items()
        if isinstance(value, Mapping) and _first(value, HEADS) is not None
    }
    places = {
        name: min((place for word in WORDS.get(name, (name,)) if (place := layer.lower().find(word)) >= 0), default=-1)
        for name in parts
    }
    named = [name for name in parts if places[name] >= 0]
    if named:
        return parts[min(named, key=lambda name: places[name])]
    if _first(told, HEADS) is not None or not parts:
        return told
    counts = {(_first(part, HEADS), _first(part, KEY_HEADS)) for part in parts.values()}
    return next(iter(parts.values())) if len(counts) == 1 else {}


def _configuration(model: Weights) -> Mapping[str, object]:
    """Return the configuration of a model, or an empty one.

    Raises:
        ValueError: if the file is damaged.
    """
    told: object = None
    if isinstance(model, nn.Module):
        config = getattr(model, "config", None)
        to_dict = getattr(config, "to_dict", None)
        told = to_dict() if callable(to_dict) else config
    elif isinstance(model, str | os.PathLike):
        path = Path(model)
        file = (path if path.is_dir() else path.parent) / "config.json"
        try:
            told = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{file} is no configuration in JSON: {error}") from error
    return told if isinstance(told, Mapping) else {}


def _first(told: Mapping[str, object], names: Sequence[str]) -> int | None:
    """Return the first positive integer under one of several names, or None."""
    return next((x for x in map(told.get, names) if isinstance(x, int) and not isinstance(x, bool) and x > 0), None)
