"""The weights of a module by name, each as the module computes with it."""

from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import ParametrizationList, is_parametrized

from ranklens.nn.calibration import evaluating
from ranklens.nn.composed import Composed, ComposedMultiheadAttention
from ranklens.nn.composition import Composition
from ranklens.nn.layer_kinds import groups, is_conv_transpose
from ranklens.nn.low_rank import LowRank
from ranklens.nn.stored_parts import CutLayer


class ModuleWeights(Mapping[str, Tensor]):
    """The parameters of a module by name: a mapping that computes a factored weight when it is looked up.

    Masks of pruned weights come too, because the weight is the product of its mask and a parameter. A weight under a
    parametrization of torch comes as the layer uses it, and what it is computed from does not come. A parameter that
    several modules share comes once.

    Args:
        model: a module.

    Attributes:
        cuts: the layers that were cut, by name, and how their two layers make the weight.
    """

    def __init__(self, model: nn.Module) -> None:
        pairs = ((name, module) for name, module in model.named_modules() if isinstance(module, LowRank))
        self.cuts = {name: _cut(pair) for name, pair in pairs}
        computed = [m for m in model.modules() if isinstance(m, Composition | ParametrizationList)]
        self._found: dict[str, tuple[nn.Module, str]] = {}
        shared: set[int] = {id(p) for m in computed for p in m.parameters()}
        for prefix, module in model.named_modules():
            for name in _parametrized(module):
                self._add(prefix, module, name)
            for name, parameter in module._parameters.items():
                if parameter is not None and id(parameter) not in shared:
                    shared.add(id(parameter))
                    self._add(prefix, module, name)
            for name in module._buffers:
                if name.endswith("_mask") and f"{name.removesuffix('_mask')}_orig" in module._parameters:
                    self._add(prefix, module, name)
        known: set[tuple[int, ...]] = set()
        for prefix, module in model.named_modules():
            if isinstance(module, ComposedMultiheadAttention):
                key, attribute = tuple(map(id, module.compositions)), "in_proj_weight"
            elif isinstance(module, Composed):
                key, attribute = (id(module.composition),), "weight"
            else:
                continue
            if key not in known:
                known.add(key)
                self._add(prefix, module, attribute)

    def _add(self, prefix: str, module: nn.Module, attribute: str) -> None:
        self._found[f"{prefix}.{attribute}".lstrip(".")] = (module, attribute)

    def __getitem__(self, name: str) -> Tensor:
        module, attribute = self._found[name]
        parametrization = _parametrized(module).get(attribute)
        # In training mode, spectral normalization changes its buffers whenever the weight is computed.
        with torch.no_grad(), evaluating(*([] if parametrization is None else [parametrization])):
            return getattr(module, attribute).detach()

    def __iter__(self) -> Iterator[str]:
        return iter(self._found)

    def __len__(self) -> int:
        return len(self._found)


def _parametrized(module: nn.Module) -> dict[str, nn.Module]:
    """Return the parametrizations of torch by the name of the tensor that they compute; most modules have none."""
    return dict(module.parametrizations.items()) if is_parametrized(module) else {}  # type: ignore[operator,union-attr]


def _cut(pair: LowRank) -> CutLayer:
    """Return how the two layers of a cut layer make its weight."""
    first, _ = pair._ends()
    return CutLayer(groups(first), is_conv_transpose(first), pair.transposed)


def adapter_scale(model: nn.Module) -> Callable[[str, int], float]:
    """Return the function that gives the scale of the adapter of a layer, which PEFT keeps in the layer.

    Args:
        model: a module.

    Returns:
        A function of the layer's name, which ends in the name of the adapter if this is not "default", and of the rank.
        It returns 1 for a layer that keeps no scale.
    """
    modules = dict(model.named_modules())

    def scale(name: str, _: int) -> float:
        for layer, adapter in ((name, "default"), name.rpartition(".")[::2]):
            kept = getattr(modules.get(layer), "scaling", None)
            if isinstance(kept, Mapping) and adapter in kept:
                ranks = getattr(modules[layer], "ranknum", {})  # AdaLoRA divides by the rank only when the layer runs
                return float(kept[adapter]) / (int(ranks[adapter]) if adapter in ranks else 1)
        return 1.0

    return scale
