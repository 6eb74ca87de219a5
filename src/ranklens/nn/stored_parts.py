"""Weights that are stored in parts: adapters, weight normalization, pruning masks, factored layers and cut layers."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from ranklens.nn import factored_state

# Names of the two factors of a low-rank adapter B A, as PEFT, kohya and diffusers write them: (A, B).
ADAPTERS = (
    ("lora_A", "lora_B"),
    ("lora_embedding_A", "lora_embedding_B"),
    ("lora_down", "lora_up"),
    ("lora.down", "lora.up"),
)
# Name of the strengths E of the components of an adapter B diag(E) A (AdaLoRA), whose factor A has the first name.
STRENGTHS = "lora_E"
# A matrix, or the left and right factors of a product.
Assembled = tuple[Tensor, Tensor | None]


@dataclass(frozen=True)
class CutLayer:
    """How the two layers in the place of a cut layer make its weight.

    Attributes:
        groups: number of groups of a convolution.
        is_conv_transpose: whether the layer is a transposed convolution, whose weight has the inputs first.
        transposed: whether the layer stores its weight with shape (in, out), as `Conv1D` of transformers does.
    """

    groups: int = 1
    is_conv_transpose: bool = False
    transposed: bool = False

    def assemble(self, parts: Sequence[Tensor]) -> Assembled:
        """Return the weight from those of both layers: as two factors, or multiplied out where it has no such form.

        Args:
            parts: weight of the layer that is applied first, and of the one that is applied last.

        Returns:
            The left and right factor; for a convolution that is transposed or has several groups, the weight and None.

        Raises:
            ValueError: if the two weights do not fit each other.
        """
        dtype = working_dtype(*parts)
        first, last = (part.to(dtype) for part in parts)
        if self.is_conv_transpose:
            into, rank, *kernel = first.shape
            by_group = first.reshape(self.groups, into // self.groups, rank, -1)
            product = torch.einsum("gor,girk->giok", last.reshape(self.groups, -1, rank), by_group)
            return product.reshape(into, -1, *kernel), None
        left, right = last.flatten(1), first.flatten(1)
        if left.shape[1] * self.groups != len(right):
            raise ValueError(f"weights of shapes {tuple(last.shape)} and {tuple(first.shape)} have no product")
        if self.groups > 1:
            by_group = left.reshape(self.groups, -1, left.shape[1]) @ right.reshape(self.groups, left.shape[1], -1)
            return by_group.reshape(len(left), *first.shape[1:]), None
        return (right.T, left.T) if self.transposed else (left, right)


@dataclass(frozen=True)
class Parts:
    """The parts of one weight.

    Attributes:
        name: name of the weight.
        names: names of the parts, in the order of `assemble`.
        assemble: a function of the parts that returns the weight, or its left and right factor.
        layer: for an adapter, the name of the layer that it belongs to, and of the adapter if that is not "default".
    """

    name: str
    names: tuple[str, ...]
    assemble: Callable[[Sequence[Tensor]], Assembled]
    layer: str = ""


def grouped(names: Iterable[str], cuts: Mapping[str, CutLayer] | None = None) -> dict[str, Parts]:
    """Return the weights that are stored in parts, by the name of every part.

    Args:
        names: names of tensors, in a mapping or a list.
        cuts: {name of a layer that was cut: how its two layers, named "NAME.0" and "NAME.1", make its weight}.

    Returns:
        {name of a part: the parts of its weight}. Tensors that are whole weights are not in it.
    """
    every = dict.fromkeys(map(str, names))
    found = [*factored_state.layers(every)]
    groups = [Parts(name, parts, assemble) for name, parts, assemble in found]
    for layer, cut in (cuts or {}).items():
        name, *pair = (f"{layer}.{part}".lstrip(".") for part in ("weight", "0.weight", "1.weight"))
        if all(part in every for part in pair):
            groups.append(Parts(name, tuple(pair), cut.assemble))
    for name in every:
        groups += [group for group in (_adapter(name, every), _normed(name, every), _pruned(name, every)) if group]
    return {part: group for group in groups for part in group.names}


def _adapter(name: str, names: Iterable[str]) -> Parts | None:
    """Return the adapter whose factor A has this name, or None."""
    for first, second in ADAPTERS:
        found = re.search(rf"(?:^|[._]){re.escape(first)}(?=\.|$)", name)
        if found is None:
            continue
        start = found.end() - len(first)
        partner = f"{name[:start]}{second}{name[found.end() :]}"
        if partner in names:
            adapter = name[found.end() :].removesuffix(".weight").strip(".")
            layer = f"{name[:start].rstrip('._')}{f'.{adapter}' if adapter not in ('', 'default') else ''}"
            others = {
                "strengths": f"{name[:start]}{STRENGTHS}{name[found.end() :]}" if first == ADAPTERS[0][0] else "",
                "alpha": f"{name[:start].rstrip('._')}.alpha",
            }
            others = {kind: other for kind, other in others.items() if other in names}
            assemble = partial(_product, others=tuple(others), transposed="embedding" in first)
            return Parts(f"{layer}.lora".lstrip("."), (name, partner, *others.values()), assemble, layer)
    return None


def _product(parts: Sequence[Tensor], others: Sequence[str], transposed: bool) -> Assembled:
    """Return the left and right factor of the change that an adapter makes to a weight.

    Args:
        parts: the factors A and B, and then the other parts.
        others: what the other parts are: "strengths" of the components, and "alpha", which divided by the rank is the
            scale of the product.
        transposed: whether the change is the transpose of B A, as for an embedding.

    Raises:
        ValueError: if the factors do not fit each other.
    """
    A, B = parts[0].flatten(1), parts[1].flatten(1)
    if B.shape[1] != len(A):
        raise ValueError(f"factors of shapes {tuple(parts[1].shape)} and {tuple(parts[0].shape)} have no product")
    dtype = working_dtype(A, B)
    A, B = A.to(dtype), B.to(dtype)
    for kind, value in zip(others, parts[2:], strict=True):
        B = B * (value.to(dtype).flatten() if kind == "strengths" else float(value) / len(A))
    return (A.T, B.T) if transposed else (B, A)


def working_dtype(*tensors: Tensor) -> torch.dtype:
    """Return the dtype in which tensors are computed with: the least that holds all of them, and at least float32.

    Torch has no such rule for 8-bit floating-point numbers, which float32 holds.

    >>> import torch
    >>> working_dtype(torch.zeros(1).half(), torch.zeros(1).to(torch.float8_e4m3fn))
    torch.float32
    """
    found = torch.float32
    for tensor in tensors:
        found = found if tensor.itemsize == 1 else torch.promote_types(found, tensor.dtype)
    return found


def _normed(name: str, names: Iterable[str]) -> Parts | None:
    """Return the weight whose norms have this name, by weight normalization, or None."""
    if name.endswith("_g") and name.rpartition(".")[2].startswith("weight"):
        stem, partner = name.removesuffix("_g"), f"{name.removesuffix('_g')}_v"
    elif name.endswith(".original0") and ".parametrizations." in f".{name}":
        before, _, after = f".{name}".rpartition(".parametrizations.")
        stem, partner = f"{before}.{after.removesuffix('.original0')}".lstrip("."), f"{name[:-1]}1"
    else:
        return None
    return Parts(stem, (name, partner), _normalized) if partner in names else None


def _normalized(parts: Sequence[Tensor]) -> Assembled:
    """Return g v / |v|, with the norm over the axes in which g has size 1; over all of them if g is one number."""
    norms, direction = parts
    if norms.ndim == 0:
        norms = norms.reshape([1] * direction.ndim)
    axes = [k for k in range(norms.ndim) if norms.shape[k] == 1]
    if norms.ndim != direction.ndim or any(norms.shape[k] not in (1, direction.shape[k]) for k in range(norms.ndim)):
        raise ValueError("they are no norms and directions of weight normalization; remove the parametrization first")
    return direction * (norms / torch.linalg.vector_norm(direction, dim=axes, keepdim=True)), None


def _pruned(name: str, names: Iterable[str]) -> Parts | None:
    """Return the pruned weight whose values before pruning have this name, or None."""
    stem = name.removesuffix("_orig")
    if stem == name or f"{stem}_mask" not in names:
        return None
    return Parts(stem, (name, f"{stem}_mask"), lambda parts: (parts[0] * parts[1].to(parts[0].dtype), None))
