"""The products of attention weights that a head computes with: query by key, and output by value."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import xarray as xr
from torch import Tensor

from ranklens import progress as reports
from ranklens.nn.attention_heads import Heads, head_counts
from ranklens.nn.rank_profile import Weights, named_weights
from ranklens.nn.rank_rows import ENERGY, Rows, singular_values
from ranklens.nn.weight_matrices import Skipped, WeightMatrix, matrices_of, units
from ranklens.tensors import arguments
from ranklens.tensors.annotations import checked

# How the weights of queries, keys and values may be fused into one; see `AttentionLayout`.
FUSED = ("", "rows", "heads")
# Layouts that the message shows if a model has no attention of a known layout.
SHOWN = 4


@dataclass(frozen=True)
class AttentionLayout:
    """Where an attention layer keeps its weights: names of tensors, without ".weight", after the name of the layer.

    Attributes:
        query: name of the weight of the queries, or of the fused weight.
        key: name of the weight of the keys; "" for a fused weight.
        value: name of the weight of the values; "" for a fused weight.
        output: name of the weight that is applied to the heads' results; "" if it is not known.
        fused: "" for weights of their own; "rows" for one weight whose rows are those of all queries, then all keys,
            then all values; "heads" for one weight with queries, keys and values of a head after each other.
    """

    query: str
    key: str = ""
    value: str = ""
    output: str = ""
    fused: Literal["", "rows", "heads"] = ""


# Layouts of common models. Of layouts that fit the same tensors, the first is taken.
LAYOUTS = (
    AttentionLayout("q_proj", "k_proj", "v_proj", "o_proj"),
    AttentionLayout("q_proj", "k_proj", "v_proj", "out_proj"),
    AttentionLayout("q_proj", "k_proj", "v_proj", "dense"),
    AttentionLayout("self.query", "self.key", "self.value", "output.dense"),
    AttentionLayout("attention.query", "attention.key", "attention.value", "output.dense"),
    AttentionLayout("q_lin", "k_lin", "v_lin", "out_lin"),
    AttentionLayout("to_q", "to_k", "to_v", "to_out.0"),
    AttentionLayout("wq", "wk", "wv", "wo"),
    AttentionLayout("q", "k", "v", "o"),
    AttentionLayout("q_proj_weight", "k_proj_weight", "v_proj_weight", "out_proj"),
    AttentionLayout("in_proj_weight", output="out_proj", fused="rows"),
    AttentionLayout("c_attn", output="c_proj", fused="rows"),
    AttentionLayout("qkv_proj", output="o_proj", fused="rows"),
    AttentionLayout("qkv", output="proj", fused="rows"),
    AttentionLayout("Wqkv", output="out_proj", fused="rows"),
    AttentionLayout("Wqkv", output="Wo", fused="rows"),
    AttentionLayout("query_key_value", output="dense", fused="heads"),
)


def stored_layouts(path: Path) -> tuple[AttentionLayout, ...]:
    """Return the layouts in a JSON file: a list of objects with the attributes of `AttentionLayout`.

    Args:
        path: the file, such as `[{"query": "q", "key": "k", "value": "v", "output": "o"}]`.

    Returns:
        The layouts, in the order of the file.

    Raises:
        ValueError: if the file holds anything else.
    """
    try:
        found = tuple(AttentionLayout(**told) for told in json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(
            f"{path} is no table of layouts: {error}; give a list of objects with query, key, ..."
        ) from error
    for layout in found:
        texts = all(isinstance(x, str) for x in (layout.query, layout.key, layout.value, layout.output))
        if not texts or not layout.query or layout.fused not in FUSED:
            raise ValueError(
                f"{path} is no table of layouts: it has {layout}; names are texts, and fused is one of {FUSED}"
            )
    return found


@checked
def attention_products(
    model: Weights,
    *,
    heads: int | None = None,
    layouts: Sequence[AttentionLayout] = LAYOUTS,
    energy: float = ENERGY,
    seed: int = 0,
    device: torch.device | str | None = None,
    progress: bool | reports.Report | None = None,
) -> xr.Dataset:
    r"""Return rank measures of the two products of weights that every head of attention computes with.

    A head with queries W_Q x, keys W_K x and values W_V x of d numbers scores a pair of positions by
    (W_Q x)^T (W_K y) = x^T (W_Q^T W_K) y, and adds W_O W_V y to the position of x. Both products are matrices of model
    size and of rank d at most; their singular values, not those of the four weights, say what a head can do. Rotations
    of positions between queries and keys, and biases, are left out.

    Args:
        model: a module; a mapping of names to tensors; or the path of a checkpoint, beside which config.json gives the
            number of heads. Heads of keys and values that several heads of queries share are counted with each.
        heads: number of heads of queries; None takes the configuration of the model. With a number given, keys and
            values have as many heads as their rows hold, or, in a fused weight, as the configuration says.
        layouts: where attention layers keep their weights, in order of preference.
        energy: share of the squared norm that the rank `rank_kept` must hold.
        seed: seed of the random matrices.
        device: where singular values are computed, such as "cuda"; None is where the weights are.
        progress: a function that is told which layer is measured; True for a line on the terminal.

    Returns:
        A Dataset as `rank_profile` returns. Every head has two rows, named "LAYER QK[h]" and "LAYER OV[h]", and every
        layer two rows "LAYER QK" and "LAYER OV" with the medians over its heads. The random matrix is a product of two
        Gaussian matrices of the shapes of the factors.

    Raises:
        ValueError: if no attention layer of these layouts is found, or the number of heads is neither given nor found.

    Source: Elhage and others, A Mathematical Framework for Transformer Circuits (2021).

    >>> import torch, ranklens as rl
    >>> with torch.random.fork_rng():
    ...     attention = torch.nn.MultiheadAttention(16, 4)
    >>> found = rl.nn.attention_products(attention)
    >>> found.weight.values.tolist()[:3], int(found.numerical_rank[0])
    (['QK', 'QK[0]', 'QK[1]'], 4)
    """
    arguments.device("device", device)
    if heads is not None and heads < 1:
        raise ValueError(f"heads is {heads}; it is a number of heads, at least 1")
    rows = Rows(energy, seed)
    weights, scale = named_weights(model)
    every = units(weights)
    found = dict(_layers(every, layouts))
    if not found:
        shown = ", ".join(list(dict.fromkeys(layout.query for layout in layouts))[:SHOWN])
        raise ValueError(
            f"there is no attention layer of a known layout among {len(every)} weights; known are {shown} and others: "
            f"give layouts=[ranklens.nn.attention_products.AttentionLayout(...)] with the names of this model"
        )
    with reports.reporter(progress) as report:
        for place, (layer, layout) in enumerate(found.items(), start=1):
            report(f"layer {place} of {len(found)}: {layer}")
            counts = head_counts(model, layer, heads)
            parts: dict[str, Tensor] = {}
            for role in ("query", "key", "value", "output"):
                name = _named(every, layer, getattr(layout, role)) if getattr(layout, role) else None
                matrix = None if name is None else next(iter(matrices_of(every[name], weights, scale)))
                if isinstance(matrix, WeightMatrix):
                    parts[role] = matrix.matrix()
                elif isinstance(matrix, Skipped):
                    rows.skip(matrix.name, matrix.reason)
            try:
                for product in _products(layer, layout, parts, counts):
                    rows.add(product, singular_values(product, device))
            except ValueError as error:
                rows.skip(layer or "the model", str(error))
    return rows.dataset()


def _layers(every: Mapping[str, object], layouts: Sequence[AttentionLayout]) -> Iterator[tuple[str, AttentionLayout]]:
    """Yield the attention layers with their layouts, in the order of their weights."""
    known: set[str] = set()
    for name in every:
        for layout in layouts:
            bare = name.removesuffix(".weight")
            if bare != layout.query and not bare.endswith(f".{layout.query}"):
                continue
            layer = bare.removesuffix(layout.query).rstrip(".")
            needed = [part for part in (layout.key, layout.value, layout.output) if part]
            if layer not in known and all(_named(every, layer, part) for part in needed):
                known.add(layer)
                yield layer, layout
                break


def _named(every: Mapping[str, object], layer: str, part: str) -> str | None:
    """Return the name of the weight of a part of a layer, or None if there is none."""
    name = f"{layer}.{part}".lstrip(".")
    return next((each for each in (f"{name}.weight", name) if each in every), None)


def _products(layer: str, layout: AttentionLayout, parts: Mapping[str, Tensor], heads: Heads) -> Iterator[WeightMatrix]:
    """Yield the products of every head of a layer.

    Raises:
        ValueError: if the shapes of the weights do not fit the number of heads.
    """
    turned = False
    if layout.fused and "query" in parts:
        turned = layout.query == "c_attn" and parts["query"].shape[1] > parts["query"].shape[0]
        queries, keys, values = _unfused(parts["query"].T if turned else parts["query"], layout, heads)
    elif {"query", "key", "value"} <= parts.keys():
        queries, keys, values = parts["query"], parts["key"], parts["value"]
    else:
        return
    if len(queries) % heads.queries:
        raise ValueError(f"has {len(queries)} rows of queries, which {heads.queries} heads do not divide; give heads=")
    d = len(queries) // heads.queries
    if len(keys) % d or heads.queries % max(len(keys) // d, 1):
        raise ValueError(f"has {len(keys)} rows of keys, which are no heads of {d} rows each; give heads=")
    shared = heads.queries // (len(keys) // d)  # heads of queries that one head of keys serves
    output = parts.get("output")
    prefix = f"{layer} ".lstrip()
    for h in range(heads.queries):
        own, other = slice(h * d, (h + 1) * d), slice(h // shared * d, (h // shared + 1) * d)
        yield WeightMatrix(f"{prefix}QK[{h}]", queries[own].T, keys[other], f"{prefix}QK")
    for h in range(heads.queries if output is not None else 0):
        assert output is not None
        if max(output.shape) < len(queries):
            raise ValueError(f"has an output of shape {tuple(output.shape)} for {len(queries)} rows of heads")
        by_head = output.T if turned or output.shape[1] != len(queries) else output
        own, other = slice(h * d, (h + 1) * d), slice(h // shared * d, (h // shared + 1) * d)
        yield WeightMatrix(f"{prefix}OV[{h}]", by_head[:, own], values[other], f"{prefix}OV")


def _unfused(fused: Tensor, layout: AttentionLayout, heads: Heads) -> tuple[Tensor, Tensor, Tensor]:
    """Return the weights of queries, keys and values, each of shape (rows of all heads, inputs).

    Args:
        fused: the fused weight, of shape (rows of all three, inputs).
        layout: how the rows are arranged.
        heads: the number of heads.

    Raises:
        ValueError: if the weight is not that of these heads.
    """
    total = heads.queries + 2 * heads.keys
    if len(fused) % total:
        raise ValueError(f"has {len(fused)} fused rows, which {total} heads do not divide; give heads=")
    d = len(fused) // total
    if layout.fused == "heads" and heads.keys > 1:  # with one head of keys, every order is that of rows
        if heads.queries != heads.keys:
            raise ValueError("fuses fewer heads of keys than of queries by head, in an order that differs among models")
        by_head = fused.reshape(heads.queries, 3, d, -1)
        queries, keys, values = (by_head[:, k].flatten(0, 1) for k in range(3))
    else:
        queries, keys, values = fused.split([heads.queries * d, heads.keys * d, heads.keys * d])
    return queries, keys, values
