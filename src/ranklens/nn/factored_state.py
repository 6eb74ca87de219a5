"""The state dict of a factored layer: how it says what its factors are, and the weight that they make."""

import itertools
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from jaxtyping import UInt8
from torch import Tensor

from ranklens.nn.kernel_chain import KernelChain
from ranklens.tensors.network import TensorNetwork

# Names of the factors in a state dict: layer, projection of an attention layer if it is one, kind, and number.
FACTOR = re.compile(
    r"^(?P<layer>.*?)composition(?:s\.(?P<part>\d+))?\.network\.(?P<kind>nodes|kernels)\.(?P<number>\d+)$"
)
# Name under which torch stores what `Module.get_extra_state` returns.
EXTRA = "_extra_state"
# Marks a chain of kernels in the description of a network.
CHAIN = "chain of kernels"


def description(network: TensorNetwork | KernelChain, shape: Sequence[int]) -> UInt8[Tensor, " bytes"]:
    """Return a description of the factors of a weight, as a tensor that a file of weights can hold.

    Without it, a state dict does not tell whether two square factors are those of a matrix product or of a sum of outer
    products.

    Args:
        network: the factors.
        shape: shape of the weight.

    Returns:
        The bytes of a JSON text: the shape, and the labels of the network as numbers.

    >>> import torch, ranklens as rl
    >>> from ranklens.nn.factored_state import description
    >>> bytes(description(rl.deep_matrix((2, 3), depth=2), (2, 3)).tolist()).decode()
    '{"shape": [2, 3], "nodes": [[0, 1], [1, 2]], "out": [0, 2]}'
    """
    told: dict[str, object] = {"shape": list(shape)}
    if isinstance(network, KernelChain):
        told["nodes"] = CHAIN
    else:
        layout = network.layout
        numbers = {label: k for k, label in enumerate(dict.fromkeys(x for node in layout.nodes for x in node))}
        told |= {
            "nodes": [[numbers[x] for x in node] for node in layout.nodes],
            "out": [numbers[x] for x in layout.out],
        }
    return torch.frombuffer(bytearray(json.dumps(told), "utf-8"), dtype=torch.uint8)


def layers(
    names: Iterable[str],
) -> Iterator[tuple[str, tuple[str, ...], Callable[[Sequence[Tensor]], tuple[Tensor, None]]]]:
    """Yield the factored weights in a state dict.

    Args:
        names: names of tensors.

    Yields:
        Name of the weight, names of its parts, and the function of the parts that returns (weight, None).
    """
    every = set(names)
    groups: dict[str, list[str]] = {}
    for name in names:
        found = FACTOR.match(name)
        if found:
            groups.setdefault(f"{found['layer']}", []).append(name)
    for layer, parts in groups.items():
        matches = [found for found in map(FACTOR.match, parts) if found is not None]
        by_network: dict[str, list[str]] = {}
        for found in sorted(matches, key=lambda m: (int(m["part"] or 0), int(m["number"]))):
            by_network.setdefault(found["part"] or "", []).append(found.string)
        counts, ordered = [], []
        for part, factors in by_network.items():
            extra = f"{layer}composition{f's.{part}' if part else ''}.{EXTRA}"
            own = [*factors, extra] if extra in every else factors
            counts.append((len(own), matches[0]["kind"], extra in every))
            ordered += own
        attention = any(by_network)
        yield f"{layer}{'in_proj_weight' if attention else 'weight'}", tuple(ordered), _assembler(counts)


def _assembler(counts: Sequence[tuple[int, str, bool]]) -> Callable[[Sequence[Tensor]], tuple[Tensor, None]]:
    """Return the function that makes a weight of its parts; several networks give the rows of one weight.

    Args:
        counts: for every network the number of its parts, their kind, and whether the last part describes it.
    """

    def assemble(parts: Sequence[Tensor]) -> tuple[Tensor, None]:
        weights, start = [], 0
        for count, kind, described in counts:
            own = parts[start : start + count]
            weights.append(_weight(own[:-1], kind, own[-1]) if described else _weight(own, kind, None))
            start += count
        return (torch.cat(weights) if len(weights) > 1 else weights[0]), None

    return assemble


def _weight(factors: Sequence[Tensor], kind: str, described: Tensor | None) -> Tensor:
    """Return the weight that factors make; without a description, only where their shapes leave no choice.

    Raises:
        ValueError: if the shapes leave a choice, or do not fit the description.
    """
    if kind == "kernels":
        chain = KernelChain([tuple(x.shape) for x in factors], dtype=factors[0].dtype)
        with torch.no_grad():
            for kernel, value in zip(chain.stacks, factors, strict=True):
                kernel.copy_(value)
            return chain.tensor()
    if described is not None:
        told = json.loads(bytes(described.tolist()))
        with torch.no_grad():
            return TensorNetwork((told["nodes"], told["out"]), list(factors)).tensor().reshape(told["shape"])
    is_chain = all(x.ndim == 2 for x in factors)
    is_chain = is_chain and all(a.shape[1] == b.shape[0] for a, b in itertools.pairwise(factors))
    if not is_chain or len({x.shape[1] for x in factors}) == 1:
        raise ValueError(
            "the file does not say how they are contracted; load them into the factored model, and call collapse"
        )
    whole = factors[0]
    for factor in factors[1:]:
        whole = whole @ factor
    return whole
