"""The weights of a model or a checkpoint as matrices, and the reasons why other tensors are none."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from ranklens.nn.checkpoint import StoredWeights
from ranklens.nn.module_weights import ModuleWeights, adapter_scale
from ranklens.nn.stored_parts import Parts, grouped

# Names of tensors that hold the scales of a quantized weight, by the end of the name.
SCALES = re.compile(r"(^|[._])(scales?|weight_scale(_inv|_2)?|scale_inv|absmax|qzeros)$")
# Names of tensors beside which such a tensor is one of scales.
QUANTIZED = ("weight", "qweight", "weight_packed", "blocks", "packed")
# Names of the magnitudes of weight-decomposed adapters (DoRA), as PEFT and LyCORIS write them.
MAGNITUDES = re.compile(r"(^|[._])(lora_magnitude_vector|dora_scale)([._]|$)")
# Names by which a weight of three axes is known to hold one matrix per expert.
EXPERTS = re.compile(r"(^|[._])(experts?|moe|\w*_moe)([._]|$)")
# Two 4-bit numbers in a byte, where this version of torch has that type.
PACKED = getattr(torch, "float4_e2m1fn_x2", None)
# Powers of two without a sign, which are scales of other numbers.
EXPONENTS = getattr(torch, "float8_e8m0fnu", None)


@dataclass(frozen=True)
class WeightMatrix:
    """A weight as a matrix, or as the product of two.

    Attributes:
        name: name of the weight.
        left: the matrix, or the left factor of the product.
        right: the right factor; None for a matrix that is no product.
        stack: name of the tensor in which the matrix is one of several, such as the weights of all experts; "" if the
            tensor holds this matrix alone.
    """

    name: str
    left: Tensor
    right: Tensor | None = None
    stack: str = ""

    @property
    def shape(self) -> tuple[int, int]:
        """Return the numbers of rows and columns."""
        return len(self.left), (self.left if self.right is None else self.right).shape[1]

    @property
    def parameters(self) -> int:
        """Return the number of entries that are stored: those of the matrix, or of both factors."""
        return self.left.numel() + (0 if self.right is None else self.right.numel())

    def matrix(self) -> Tensor:
        """Return the matrix."""
        return self.left if self.right is None else self.left @ self.right


@dataclass(frozen=True)
class Skipped:
    """A tensor that is not measured.

    Attributes:
        name: name of the tensor.
        reason: what it is instead of a weight matrix, so that "NAME REASON" is a sentence.
    """

    name: str
    reason: str


def matrices(
    weights: Mapping[str, object], scale: Callable[[str, int], float] | None = None
) -> Iterator[WeightMatrix | Skipped]:
    """Yield every weight as a matrix, and every other tensor with the reason why it is none.

    A tensor is looked up when it is yielded, not before. A weight that is stored in parts, such as the two factors of
    a low-rank adapter or of weight normalization, comes once. Of tensors with three axes and more:

    - a tensor whose name ends in "weight", such as the kernel of a convolution, is the matrix of its first axis by all
      other axes;
    - any other tensor of shape (1, N, D), such as a table of positions, is a matrix of shape N x D;
    - any other tensor of three axes, and every tensor of three axes whose name says that it belongs to experts, is a
      stack of matrices, of which each comes by itself, named "NAME[k]";
    - any other tensor is the matrix of its first axis by all others.

    Args:
        weights: names and tensors, or numpy arrays.
        scale: a function of the name of an adapter's layer and of the adapter's rank that returns the number by which
            the product of its factors is multiplied. None takes 1.

    Yields:
        One object per matrix or skipped tensor.
    """
    shared = weights.shared if isinstance(weights, StoredWeights) else {}
    for name, unit in units(weights).items():
        if name in shared:
            yield Skipped(name, f"is {shared[name]!r} once more")
        else:
            yield from matrices_of(unit, weights, scale)


def units(weights: Iterable[str]) -> dict[str, Parts | str]:
    """Return the weights that are stored under some names, without looking up any of them.

    Args:
        weights: names of tensors, in a mapping or a list.

    Returns:
        {name of a weight: its parts, or the name of the tensor that holds it whole}.
    """
    parts = grouped(weights, weights.cuts if isinstance(weights, StoredWeights | ModuleWeights) else None)
    found: dict[str, Parts | str] = {}
    for name in weights:
        group = parts.get(str(name))
        if group is None:
            found[str(name)] = name
        elif group.names[0] == name:
            found[group.name] = group
    return found


def matrices_of(
    unit: Parts | str, weights: Mapping[str, object], scale: Callable[[str, int], float] | None = None
) -> Iterator[WeightMatrix | Skipped]:
    """Yield the matrices of one weight, as `matrices` does for all.

    Args:
        unit: a value of `units`.
        weights: names and tensors, or numpy arrays.
        scale: as in `matrices`.

    Yields:
        One object per matrix or skipped tensor.
    """
    if isinstance(unit, Parts):
        yield from _assembled(unit, weights, scale)
    else:
        yield from _whole(unit, _read(weights, unit), weights)


def weight_matrices(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield the weights of a module as matrices.

    Every weight is read when it is yielded, not before. A factored weight comes once, computed from its factors, and
    its factors do not come. The function `matrices` says what becomes of weights with three axes and more.

    Args:
        model: a module.

    Yields:
        Pairs (name of the weight, matrix). Parameters that are no matrices are left out.
    """
    for found in matrices(ModuleWeights(model), adapter_scale(model)):
        if isinstance(found, WeightMatrix):
            yield found.name, found.matrix()


def _read(weights: Mapping[str, object], name: str) -> Tensor | Skipped:
    """Return a tensor, or why there is none."""
    try:
        value: object = weights[name]
    except ValueError as error:  # of a kind of numbers that torch does not have
        return Skipped(name, f"cannot be read: {error}")
    if isinstance(value, np.ndarray) and value.dtype.kind in "fiubc":
        value = torch.from_numpy(value)
    if not isinstance(value, Tensor):
        return Skipped(name, f"is of type {type(value).__name__}, and no tensor")
    return value if is_lazy(value) else value.detach()


def _whole(name: str, tensor: Tensor | Skipped, names: Iterable[str]) -> Iterator[WeightMatrix | Skipped]:
    """Yield the matrices in one tensor, or why there is none."""
    if isinstance(tensor, Skipped):
        yield tensor
        return
    reason = _reason(str(name), tensor, names)
    if reason is not None:
        yield Skipped(str(name), reason)
        return
    is_weight = str(name).rpartition(".")[2].startswith("weight") and EXPERTS.search(str(name)) is None
    if tensor.ndim > 2 and len(tensor) == 1 and not is_weight:
        tensor = tensor[0]
    elif tensor.ndim == 3 and not is_weight:
        for k, matrix in enumerate(tensor):
            yield WeightMatrix(f"{name}[{k}]", matrix, stack=str(name))
        return
    yield WeightMatrix(str(name), tensor.flatten(1))


def _reason(name: str, tensor: Tensor, names: Iterable[str]) -> str | None:  # noqa: PLR0911  (one line per kind)
    """Return why a tensor is no weight matrix, or None if it is one."""
    if is_lazy(tensor):
        return "is not initialized; run the model on a batch first"
    if tensor.is_nested or tensor.layout != torch.strided:
        return f"is stored as {'a nested tensor' if tensor.is_nested else tensor.layout}; make it a dense one first"
    if MAGNITUDES.search(name):
        return (
            "holds magnitudes that rescale the weight together with its adapter (DoRA), so that the change of the "
            "weight is not the adapter's product alone; merge the adapter and compare with the model before it"
        )
    if tensor.ndim < 2:
        return "has fewer than two axes"
    if tensor.numel() == 0:
        return f"has no entries: its shape is {tuple(tensor.shape)}"
    if tensor.is_meta:
        return "is on the meta device, where there are no numbers"
    if tensor.dtype == PACKED:
        return "packs two 4-bit numbers into a byte; dequantize it with its scales first"
    if tensor.dtype == EXPONENTS or (SCALES.search(name) and _sibling(name, QUANTIZED, names)):
        return "holds scales of a quantized weight"
    if tensor.is_complex():
        return f"has complex entries ({tensor.dtype})"
    if not tensor.is_floating_point():
        return f"has entries of {tensor.dtype}; if they are a quantized weight, dequantize it first"
    if tensor.itemsize == 1 and (scales := _scales_of(name, names)) is not None:
        return f"has 8-bit entries whose scales are in {scales!r}; dequantize it with them first"
    if tensor.untyped_storage().nbytes() < tensor.numel() * tensor.itemsize:
        return "repeats its stored numbers by a stride of 0; call contiguous() first"
    return None


def _sibling(name: str, others: Iterable[str], names: Iterable[str]) -> bool:
    """Return whether the module of a tensor has a tensor of one of some names."""
    module = name.rpartition(".")[0]
    return any(f"{module}.{other}".lstrip(".") in names for other in others)


def _scales_of(name: str, names: Iterable[str]) -> str | None:
    """Return the name of the tensor that holds the scales of a weight, or None."""
    module = name.rpartition(".")[0]
    candidates = [f"{name}_scale", f"{name}_scale_inv", *(f"{module}.{x}" for x in ("scale", "scales", "scale_weight"))]
    return next((candidate for candidate in candidates if candidate in names), None)


def _assembled(
    group: Parts, weights: Mapping[str, object], scale: Callable[[str, int], float] | None
) -> Iterator[WeightMatrix | Skipped]:
    """Yield the matrix of a weight that is stored in parts, or why there is none."""
    read = [_read(weights, name) for name in group.names]
    for part in read:
        if isinstance(part, Skipped):
            yield part
            return
    tensors = [part for part in read if isinstance(part, Tensor)]
    reasons = [_reason(name, x, ()) for name, x in zip(group.names, tensors, strict=True) if x.ndim >= 2]
    reason = next((f"{told} (it is {group.names[k]!r})" for k, told in enumerate(reasons) if told is not None), None)
    if reason is not None:
        yield Skipped(group.name, reason)
        return
    try:
        left, right = group.assemble(tensors)
    except (ValueError, RuntimeError, LookupError, TypeError, AttributeError) as error:
        yield Skipped(group.name, f"is stored in parts that do not fit each other: {error!r}")
        return
    if right is not None:
        left = left * (1.0 if scale is None else scale(group.layer, len(right)))
        yield WeightMatrix(group.name, left, right)
    else:
        yield from _whole(group.name, left, ())
