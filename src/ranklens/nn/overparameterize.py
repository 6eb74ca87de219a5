"""Any model with its layers factored, and back."""

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from fnmatch import fnmatchcase
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from ranklens.nn.composed import COMPOSED, PLAIN, ComposedMultiheadAttention, Composition, check_values
from ranklens.nn.exact_start import hold_
from ranklens.nn.kernel_chain import KernelChain, expanded
from ranklens.tensors import families
from ranklens.tensors import init as inits
from ranklens.tensors.network import TensorNetwork

M = TypeVar("M", bound=nn.Module)
Where = Callable[[str, nn.Module], bool] | Sequence[str] | None
EXPANDED = ("expanded", "stacked")
KINDS = ("matrix", "cp", "hierarchical", "tensor_train", "tucker", *EXPANDED)
KEEP = "keep"
RATE = 4  # of expanded layers, as published


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
    r"""A copy of a model whose layers have factored weights, W = W_L ... W_1 or a tensor factorization of W.

    Trained from a small start, gradient descent lowers the rank of such weights: singular values or components sigma
    obey d sigma / dt \propto sigma^(2 - 2/K), so small ones wait. **Insertion alone proves nothing about rank**: with
    init="keep" the weight starts as it is, each of its singular values sigma held by factors of size sigma^(1/L), and
    it is a start far below the data's scale that lowers rank.

    Linear, Conv and ConvTranspose of 1 to 3 dimensions, Embedding, and MultiheadAttention (its projections) are
    factored; groups, strides, dilation and padding stay. A kernel is seen as a matrix (first axis x all others), or as
    a tensor with a mode per axis; what a matrix of a Linear is seen as says `tensorize`.

    Args:
        model: any; it is not changed.
        depth: L, of a matrix factorization.
        kind: "matrix" | "cp" | "hierarchical" | "tensor_train" | "tucker"; or, for kernels, "expanded" (sizes 1, k, 1)
            or "stacked" (as many of size 3 as make one of size k), with a Linear as a product of three.
        width: of all bonds, a cap on the rank; None takes what never limits it (not for trains and Tucker). For
            expanded kernels the rate by which channels within are more, 4 by default.
        where: which layers: names or patterns such as "encoder.*", or a function of (name, module); None takes all.
        init: "keep" starts at the very weights, by balanced factors (an expanded kernel's outer factors are random
            isometries; "stacked" cannot keep); a number starts at random, with entries of that standard deviation in
            units of the present weight's.
        tensorize: sizes that multiply up to a Linear's (out, in), for tensor kinds.
        seed: of random starts.

    Returns:
        The copy. Weights that modules share stay shared.

    Raises:
        ValueError: for an unknown kind, nothing to factor, an Embedding that cannot be (sparse gradients or max_norm),
            sizes that do not multiply up, or a kind or width that cannot hold the weights it is to keep.

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
            f"init is {init!r}; it is {KEEP!r}, or a positive number: a share of the present weights' size"
        )
    model = copy.deepcopy(model)
    known: dict[Any, Composition] = {}
    chosen = list(_chosen(model, where))
    held = [layer._parameters[_weight(layer)] for _, layer in chosen]  # so that no other gets the id of one
    _check_ties(model, chosen)

    def compose(name: str, weight: Tensor, key: Any) -> Composition:
        if key not in known:
            check_values(name, weight)
            sizes = _sizes(weight, kind, tensorize)
            network = _factored(weight.detach().reshape(sizes), depth, kind, width, init, seed + len(known))
            network.requires_grad_(weight.requires_grad)
            known[key] = Composition(network, weight.shape)
        return known[key]

    for (name, layer), weight in zip(chosen, held, strict=True):
        assert weight is not None
        if type(layer) is nn.MultiheadAttention:
            del layer._parameters["in_proj_weight"]
            parts = [part.requires_grad_(weight.requires_grad) for part in weight.detach().chunk(3)]
            layer.__class__ = ComposedMultiheadAttention
            layer.compositions = nn.ModuleList(compose(name, p, (id(weight), k)) for k, p in enumerate(parts))
            continue
        _check(name, layer)
        composition = compose(name, weight, id(weight))
        del layer._parameters["weight"]
        layer.__class__ = COMPOSED[type(layer)]
        layer.composition = composition
    if not known:
        raise ValueError(f"nothing was factored: no layer that `where` ({where!r}) takes is one of {_supported()}")
    return model


def collapse(model: M) -> M:
    """A copy of a model whose composed layers are plain again: the same function, at the plain model's cost.

    Args:
        model: any; it is not changed.

    Returns:
        The copy, with the same training flags. Weights are trained where factors were.

    >>> import torch, ranklens as rl
    >>> deep = rl.nn.overparameterize(torch.nn.Conv2d(3, 4, 3, groups=1).double(), kind="cp")
    >>> plain, x = rl.nn.collapse(deep), torch.ones(1, 3, 5, 5, dtype=torch.float64)
    >>> type(plain).__name__, bool(torch.allclose(plain(x), deep(x)))
    ('Conv2d', True)
    """
    model = copy.deepcopy(model)
    known: dict[Any, nn.Parameter] = {}

    def whole(composition: Any) -> nn.Parameter:
        if id(composition) not in known:
            trained = any(p.requires_grad for p in composition.parameters())
            with torch.no_grad():
                known[id(composition)] = nn.Parameter(composition().clone(), trained)
        return known[id(composition)]

    for layer in list(model.modules()):
        if type(layer) is ComposedMultiheadAttention:
            parts = [whole(composition) for composition in layer.compositions]
            key = tuple(map(id, parts))
            if key not in known:
                known[key] = nn.Parameter(torch.cat([part.detach() for part in parts]), parts[0].requires_grad)
            del layer.compositions
            _become(layer, nn.MultiheadAttention, "in_proj_weight", known[key])
        elif type(layer) in PLAIN:
            _become(layer, PLAIN[type(layer)], "weight", whole(layer._modules.pop("composition")))
    return model


def _become(layer: nn.Module, kind: type[nn.Module], name: str, weight: nn.Parameter) -> None:
    """Change a layer's class in place, so that whoever holds it, and its hooks, still do."""
    layer.__class__ = kind
    layer._parameters = {name: weight, **{k: p for k, p in layer._parameters.items() if k != name}}


def _chosen(model: nn.Module, where: Where) -> Iterator[tuple[str, Any]]:
    """Layers that can be factored, in their order; a module that is used twice comes once."""
    for name, layer in list(model.named_modules()):
        known = type(layer) is nn.MultiheadAttention or type(layer) in COMPOSED
        if known and layer._parameters.get(_weight(layer)) is not None and _takes(where, name, layer):
            yield name, layer


def _weight(layer: nn.Module) -> str:
    return "in_proj_weight" if type(layer) is nn.MultiheadAttention else "weight"


def _check_ties(model: nn.Module, chosen: Sequence[tuple[str, Any]]) -> None:
    """Refuse to factor a weight in one layer that another, which is left, shares."""
    taken = {id(layer._parameters[_weight(layer)]): name for name, layer in chosen}
    layers = {id(layer) for _, layer in chosen}
    for name, module in model.named_modules():
        for parameter in () if id(module) in layers else module._parameters.values():
            if id(parameter) in taken:
                raise ValueError(
                    f"layers {taken[id(parameter)]!r} and {name!r} share their weight, and only the first is factored; "
                    f"take both, or leave both out, by `where`"
                )


def _takes(where: Where, name: str, layer: nn.Module) -> bool:
    if where is None:
        return True
    return where(name, layer) if callable(where) else any(fnmatchcase(name, pattern) for pattern in where)


def _supported() -> str:
    return ", ".join(dict.fromkeys([layer.__name__ for layer in PLAIN.values()] + ["MultiheadAttention"]))


def _check(name: str, layer: nn.Module) -> None:
    if isinstance(layer, nn.Embedding) and (layer.sparse or layer.max_norm is not None):
        raise ValueError(
            f"embedding {name!r} has sparse gradients or a max_norm, which a composed weight cannot have; leave it out "
            f"by `where`"
        )


def _sizes(weight: Tensor, kind: str, tensorize: tuple[Sequence[int], Sequence[int]] | None) -> tuple[int, ...]:
    """What a weight is seen as."""
    if kind in EXPANDED:
        return tuple(weight.shape)
    if kind == "matrix":
        return (len(weight), math.prod(weight.shape[1:]))
    if tensorize is not None and weight.ndim == 2:
        outs, ins = tuple(tensorize[0]), tuple(tensorize[1])
        if (math.prod(outs), math.prod(ins)) != tuple(weight.shape):
            raise ValueError(
                f"tensorize {(outs, ins)} does not multiply up to the weight's shape {tuple(weight.shape)}"
            )
        return (*outs, *ins)
    return tuple(weight.shape)


def _factored(
    weight: Tensor, depth: int, kind: str, width: int | None, init: str | float, seed: int
) -> TensorNetwork | KernelChain:
    if weight.dtype in (torch.float16, torch.bfloat16):  # which cannot be decomposed
        return _factored(weight.float(), depth, kind, width, init, seed).to(weight.dtype)
    settings: Any = {"dtype": weight.dtype, "device": weight.device}
    size = float(weight.double().std(correction=0)) or 1 / math.sqrt(math.prod(weight.shape[1:]))
    if kind in EXPANDED:
        chain = KernelChain(expanded(weight.shape, width or RATE, stacked=kind == "stacked"), **settings)
        return chain.keep_(weight, seed=seed) if init == KEEP else chain.scaled_(float(init) * size, seed=seed)
    if kind == "matrix":
        net = families.deep_matrix(tuple(weight.shape), depth, width, **settings)
    elif width is None and kind in ("tensor_train", "tucker"):
        raise ValueError(f"kind {kind!r} needs width=, the size of its bonds")
    else:
        net = getattr(families, kind)(tuple(weight.shape), width, **settings)
    if init != KEEP:
        return inits.scaled_(net, float(init) * size, seed=seed)
    if not bool(weight.any()):  # factors that are all zero have no gradient: one is, the others are as at random
        inits.scaled_(net, size, seed=seed)
        with torch.no_grad():
            net.nodes[0].zero_()
        return net
    return inits.product_(net, weight) if kind == "matrix" else hold_(net, weight, kind)
