"""Replacement of the weights in any model by factors, and of the factors by plain weights again."""

import math
from collections.abc import Callable, Hashable, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from ranklens.nn.composed import (
    COMPOSED,
    PLAIN,
    Composed,
    ComposedConv1D,
    ComposedMultiheadAttention,
    check_values,
)
from ranklens.nn.composition import Composition
from ranklens.nn.exact_start import hold_
from ranklens.nn.factorable import Where, chosen_layers
from ranklens.nn.kernel_chain import KernelChain, expanded
from ranklens.nn.model_state import M, copied
from ranklens.tensors import families
from ranklens.tensors import init as inits
from ranklens.tensors.annotations import checked
from ranklens.tensors.network import TensorNetwork

# A function that returns the factors of a weight: of the layer's name, the weight, and a key that equal weights share.
_Compose = Callable[[str, Tensor, Hashable], Composition]
EXPANDED_KINDS = ("expanded", "stacked")
KINDS = ("matrix", "cp", "hierarchical", "tensor_train", "tucker", *EXPANDED_KINDS)
KEEP = "keep"
# Factor by which inner channels outnumber outer ones in expanded layers, as published (Guo, Alvarez, Salzmann 2020).
EXPANSION_RATE = 4


@checked
def overparameterize(
    model: M,
    depth: int = 3,
    *,
    kind: str = "matrix",
    width: int | None = None,
    where: Where = None,
    init: str | float = KEEP,
    tensorize: tuple[Sequence[int], Sequence[int]] | None = None,
    seed: int = 0,
) -> M:
    r"""Return a copy of a model whose layers have factored weights: W = W_L ... W_1, or a tensor factorization of W.

    Started from small factors, gradient descent lowers the rank of such weights: a singular value or component sigma
    moves at a rate proportional to sigma^(2 - 2/K), with K the number of factors that it is a product of (K = depth for
    matrices), so small ones stay small for long. **Factoring alone proves nothing about rank**: with init="keep" every
    singular value sigma of the weight starts at its present size, as a product of factors of size sigma^(1/K). The rank
    is lowered only if the start is far smaller than the weights that fit the data.

    Factored are Linear, Conv1d to Conv3d, ConvTranspose1d to ConvTranspose3d, Embedding, MultiheadAttention (its
    projections of query, key and value), and Conv1D of transformers. Layers of other classes, subclasses of these
    included, stay as they are; `factorable` lists the layers of a model with the reasons. Groups, strides, dilation and
    padding stay as they are. The weight of a convolution is factored as a matrix (first axis by all other axes), as a
    tensor with one mode per axis, or as a chain of kernels, depending on `kind`.

    Args:
        model: any model; it is not changed.
        depth: number L of matrices, at least 1; used by kind="matrix" only.
        kind: "matrix" (a product of matrices), "cp", "hierarchical", "tensor_train" or "tucker" (a factorization of the
            weight as a tensor), "expanded" (kernels of sizes 1, k, 1), or "stacked" (as many kernels of size 3 as
            compose to size k; for k up to 3 it does what "expanded" does). With "expanded" and "stacked", a Linear
            weight becomes a product of three matrices.
        width: size of every bond, an upper bound on the rank. None takes a size that does not limit the rank; it must
            be given for "tensor_train" and "tucker". For "expanded" and "stacked" it is the factor by which inner
            channels outnumber outer channels, 4 if None.
        where: which layers to factor: a name or pattern such as "encoder.*", a sequence of these, or a function of the
            name and the module. None takes all layers of the types above. Patterns are compared with names as they are
            and with names without what `torch.compile`, DataParallel and PEFT put before them.
        init: "keep" sets the factors so that the weight is unchanged, with balanced factors; for "expanded" the outer
            kernels are random isometries, and "stacked" cannot keep a kernel larger than 3. A positive number draws the
            factors at random so that the entries of the weight have this standard deviation, in units of the standard
            deviation of the present weight's entries, or of 1/sqrt(fan-in) for a weight of zeros.
        tensorize: (sizes of the output modes, sizes of the input modes), by which tensor kinds reshape the weight of a
            Linear or an Embedding layer; their products must be the two sizes of the weight. None keeps two modes.
        seed: seed of the random numbers. Every weight gets a stream of its own.

    Returns:
        The copy. A weight that several modules share is factored once, and the modules share the factors.

    Raises:
        ValueError: if `kind` or `init` is not one of the values above; if no layer is factored, or a pattern of several
            takes none; if a layer computes its weight from other Parameters, as with weight normalization,
            parametrizations and pruning; if a factored layer shares its weight with one that is not; for an Embedding
            with sparse gradients or a max_norm; for a weight that is not finite; if `tensorize` does not fit a weight;
            or if a weight to be kept does not fit the kind or width.

    Source: Arora, Cohen, Hazan (ICML 2018) and Arora, Cohen, Hu, Luo (NeurIPS 2019) for matrices; Razin, Maman, Cohen
        (ICML 2021 and 2022) for tensors; Guo, Alvarez, Salzmann (NeurIPS 2020) for expanded kernels.

    >>> import torch, ranklens as rl
    >>> plain = torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.Tanh(), torch.nn.Linear(5, 2)).double()
    >>> deep, x = rl.nn.overparameterize(plain, depth=3), torch.ones(4, 6, dtype=torch.float64)
    >>> bool(torch.allclose(deep(x), plain(x))), sum(p.numel() for p in deep.parameters())
    (True, 105)
    """
    if kind not in KINDS:
        raise ValueError(f"kind is {kind!r}; choose one of {', '.join(KINDS)}")
    if init != KEEP and not (isinstance(init, float | int) and math.isfinite(init) and init > 0):
        raise ValueError(
            f"init is {init!r}; give {KEEP!r}, or a positive number in units of the standard deviation of the weights"
        )
    model = copied(model)
    known: dict[Hashable, Composition] = {}
    chosen = chosen_layers(model, where)
    weights = [_weight_of(layer) for _, layer in chosen]  # kept alive, so that no other object gets the id of one
    _check_ties(model, chosen)

    def compose(name: str, weight: Tensor, key: Hashable) -> Composition:
        if key not in known:
            check_values(name, weight)
            sizes = _sizes(weight, kind, tensorize)
            network = _factored(weight.detach().reshape(sizes), depth, kind, width, init, seed + len(known))
            network.requires_grad_(weight.requires_grad)
            known[key] = Composition(network, weight.shape)
        return known[key]

    for (name, layer), weight in zip(chosen, weights, strict=True):
        _factor(name, layer, weight, compose)
    for module in model.modules():
        if callable(getattr(module, "resize_token_embeddings", None)):
            vars(module)["resize_token_embeddings"] = partial(_resize, module)
    return model


def _factor(name: str, layer: nn.Module, weight: nn.Parameter, compose: _Compose) -> None:
    """Replace the weight of a layer by factors and change the layer's class accordingly, in place."""
    if type(layer) is nn.MultiheadAttention:
        del layer._parameters["in_proj_weight"]
        parts = [part.requires_grad_(weight.requires_grad) for part in weight.detach().chunk(3)]
        compositions = nn.ModuleList(compose(name, part, (id(weight), k)) for k, part in enumerate(parts))
        layer.__class__ = ComposedMultiheadAttention
        layer.compositions = compositions
    else:
        _check_embedding(name, layer)
        composition = compose(name, weight, id(weight))
        del layer._parameters["weight"]
        if type(layer) in COMPOSED:
            layer.__class__ = COMPOSED[type(layer)]
        else:
            layer.plain_class = type(layer)  # type: ignore[assignment]
            layer.__class__ = ComposedConv1D
        layer.composition = composition


@checked
def collapse(model: M) -> M:
    """Return a copy of a model in which every factored weight is a plain weight again.

    The copy computes the same function, up to rounding, at the cost of the plain model. It has the layer types that the
    model had before `overparameterize`.

    Args:
        model: any model; it is not changed. Layers without factors are copied as they are.

    Returns:
        The copy. Weights that modules share stay shared, and a weight requires a gradient if any of its factors does.

    >>> import torch, ranklens as rl
    >>> deep = rl.nn.overparameterize(torch.nn.Conv2d(3, 4, 3, groups=1).double(), kind="cp")
    >>> plain, x = rl.nn.collapse(deep), torch.ones(1, 3, 5, 5, dtype=torch.float64)
    >>> type(plain).__name__, bool(torch.allclose(plain(x), deep(x)))
    ('Conv2d', True)
    """
    model = copied(model)
    _collapse_(list(model.modules()))
    for module in model.modules():
        vars(module).pop("resize_token_embeddings", None)
    return model


def _collapse_(layers: Sequence[nn.Module]) -> None:
    """Make the weights of factored layers plain, in place; layers of other kinds stay as they are."""
    known: dict[Hashable, nn.Parameter] = {}

    def plain_weight(composition: nn.Module) -> nn.Parameter:
        if id(composition) not in known:
            trained = any(p.requires_grad for p in composition.parameters())
            with torch.no_grad():
                known[id(composition)] = nn.Parameter(
                    composition().clone(memory_format=torch.contiguous_format), trained
                )
        return known[id(composition)]

    for layer in layers:
        if isinstance(layer, ComposedMultiheadAttention):
            parts = [plain_weight(composition) for composition in layer.compositions]
            key = tuple(map(id, parts))
            if key not in known:
                known[key] = nn.Parameter(torch.cat([part.detach() for part in parts]), parts[0].requires_grad)
            del layer.compositions
            _become(layer, nn.MultiheadAttention, "in_proj_weight", known[key])
        elif isinstance(layer, Composed):
            assert isinstance(layer, nn.Module)
            kind = layer.plain_class if isinstance(layer, ComposedConv1D) else PLAIN[type(layer)]
            weight = plain_weight(layer.get_submodule("composition"))
            del layer.composition
            vars(layer).pop("plain_class", None)
            _become(layer, kind, "weight", weight)


def _resize(model: nn.Module, *arguments: object, **options: object) -> object:
    """Resize the embeddings of a model of transformers, after their factored weights have been made plain.

    A resized embedding has rows that no factors give. All layers that share the factors become plain, too.

    Returns:
        What the method of the model returns: the embedding.
    """
    ends = [getattr(model, name)() for name in ("get_input_embeddings", "get_output_embeddings")]
    taken = {id(layer.composition) for layer in ends if isinstance(layer, Composed)}
    _collapse_([m for m in model.modules() if isinstance(m, Composed) and id(m.composition) in taken])
    del vars(model)["resize_token_embeddings"]
    return getattr(model, "resize_token_embeddings")(*arguments, **options)  # noqa: B009  (no attribute of every Module)


def _become(layer: nn.Module, kind: type[nn.Module], name: str, weight: nn.Parameter) -> None:
    """Change the class of a layer in place and give it a weight; references to the layer and its hooks stay valid.

    The weight comes first among the parameters, as in the plain layer.
    """
    layer.__class__ = kind
    layer._parameters = {name: weight, **{k: p for k, p in layer._parameters.items() if k != name}}


def _weight_of(layer: nn.Module) -> nn.Parameter:
    """Return the Parameter of a layer that is factored."""
    return layer.get_parameter("in_proj_weight" if type(layer) is nn.MultiheadAttention else "weight")


def _check_ties(model: nn.Module, chosen: Sequence[tuple[str, nn.Module]]) -> None:
    """Refuse to factor a weight that a layer which is not factored shares."""
    taken = {id(_weight_of(layer)): name for name, layer in chosen}
    layers = {id(layer) for _, layer in chosen}
    for name, module in model.named_modules():
        for parameter in () if id(module) in layers else module._parameters.values():
            if id(parameter) in taken:
                raise ValueError(
                    f"layers {taken[id(parameter)]!r} and {name!r} share their weight, and only the first is factored; "
                    f"take both, or leave both out, by `where`"
                )


def _check_embedding(name: str, layer: nn.Module) -> None:
    """Refuse an embedding whose options need a weight that is a Parameter of its own."""
    if isinstance(layer, nn.Embedding) and (layer.sparse or layer.max_norm is not None):
        raise ValueError(
            f"embedding {name!r} has sparse gradients or a max_norm, which a factored weight cannot have; leave it out "
            f"by `where`"
        )


def _sizes(weight: Tensor, kind: str, tensorize: tuple[Sequence[int], Sequence[int]] | None) -> tuple[int, ...]:
    """Return the sizes to which a weight is reshaped before it is factored."""
    if kind in EXPANDED_KINDS:
        return tuple(weight.shape)
    if kind == "matrix":
        return (len(weight), math.prod(weight.shape[1:]))
    if tensorize is not None and weight.ndim == 2:
        outs, ins = tuple(tensorize[0]), tuple(tensorize[1])
        if (math.prod(outs), math.prod(ins)) != tuple(weight.shape):
            raise ValueError(
                f"tensorize is {(outs, ins)}, which does not multiply up to the weight's shape {tuple(weight.shape)}"
            )
        return (*outs, *ins)
    return tuple(weight.shape)


def _factored(
    weight: Tensor, depth: int, kind: str, width: int | None, init: str | float, seed: int
) -> TensorNetwork | KernelChain:
    """Return the factors of a weight that has been reshaped by `_sizes`."""
    if weight.dtype in (torch.float16, torch.bfloat16):  # PyTorch has no decompositions in half precision
        return _factored(weight.float(), depth, kind, width, init, seed).to(weight.dtype)
    dtype, device = weight.dtype, weight.device
    # A weight of zeros has no scale of its own; take that of the usual initialization by fan-in.
    std = float(weight.double().std(correction=0)) or 1 / math.sqrt(math.prod(weight.shape[1:]))
    if kind in EXPANDED_KINDS:
        chain = KernelChain(
            expanded(weight.shape, width or EXPANSION_RATE, stacked=kind == "stacked"), dtype=dtype, device=device
        )
        return chain.keep_(weight, seed=seed) if init == KEEP else chain.scaled_(float(init) * std, seed=seed)
    if kind == "matrix":
        net = families.deep_matrix(tuple(weight.shape), depth, width, dtype=dtype, device=device)
    elif width is None and kind in ("tensor_train", "tucker"):
        raise ValueError(f"kind {kind!r} needs width=, the size of its bonds; give a positive integer")
    else:
        net = getattr(families, kind)(tuple(weight.shape), width, dtype=dtype, device=device)
    if init != KEEP:
        return inits.scaled_(net, float(init) * std, seed=seed)
    if not bool(weight.any()):  # if all factors were zero, all gradients would be; so one is zero, the others random
        inits.scaled_(net, std, seed=seed)
        with torch.no_grad():
            net.nodes[0].zero_()
        return net
    return inits.product_(net, weight) if kind == "matrix" else hold_(net, weight, kind)
