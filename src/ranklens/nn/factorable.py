"""Which layers of a model `overparameterize` factors, which it does not, and why."""

import re
from collections.abc import Callable, Iterator, Sequence
from fnmatch import fnmatchcase

import numpy as np
import xarray as xr
from torch import nn

from ranklens.nn.composed import COMPOSED, PLAIN, Composed, ComposedMultiheadAttention
from ranklens.nn.composition import Composition
from ranklens.nn.layer_kinds import is_transposed, layers_with_weights
from ranklens.tensors.annotations import checked

Where = str | Sequence[str] | Callable[[str, nn.Module], bool] | None
# Number of names of layers in a message: about two lines of text.
NAMES_SHOWN = 8
# Parts of the name of a module that wrappers add: those of torch.compile, of sharding, of checkpointing, and of PEFT.
WRAPPED = re.compile(r"(^|\.)(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module|base_layer)(?=\.|$)")
# Beginnings of names inside models of PEFT, and inside DataParallel and averaged models.
PEFT, PARALLEL = "base_model.model.", "module."
# How a weight that is no Parameter of its own is made one again, by the name of the Parameter that it has instead.
REMEDIES = {
    "weight_g": "torch.nn.utils.remove_weight_norm(layer)",
    "weight_mask": "torch.nn.utils.prune.remove(layer, 'weight')",
    "weight_orig": "torch.nn.utils.remove_spectral_norm(layer)",
}


@checked
def factorable(model: nn.Module, where: Where = None) -> xr.Dataset:
    """Return a table of the layers with weights, and whether `overparameterize` factors them.

    Args:
        model: any model.
        where: as in `overparameterize`: a name or pattern, a sequence of these, a function of name and module, or None.

    Returns:
        A Dataset over `layer`, by name, with the variables kind (name of the class), parameters (number of the entries
        of its own Parameters), and reason: why the layer is not factored, or "" if it is.

    >>> import torch, ranklens as rl
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Bilinear(4, 4, 2))
    >>> [str(reason) for reason in rl.nn.factorable(model).reason.values]
    ['', 'layers of class Bilinear are not factored']
    """
    rows = list(_reasons(model, where))
    columns = {
        "kind": [type(layer).__name__ for _, layer, _ in rows],
        "parameters": [sum(p.numel() for p in layer.parameters(recurse=False)) for _, layer, _ in rows],
        "reason": [reason for *_, reason in rows],
    }
    names = np.array([name for name, *_ in rows], dtype=str)
    return xr.Dataset({name: ("layer", np.array(x)) for name, x in columns.items()}, coords={"layer": names})


def chosen_layers(model: nn.Module, where: Where) -> list[tuple[str, nn.Module]]:
    """Return the names and layers to be factored, in the order of the model; a module that is used twice comes once.

    Args:
        model: the model.
        where: as in `overparameterize`.

    Returns:
        Pairs (name, layer), at least one.

    Raises:
        ValueError: if there is none; if a pattern takes none; or if a layer that is taken computes its weight from
            other Parameters.
    """
    found = []
    for name, layer, reason in _reasons(model, where):
        if reason and reason == _is_computed(layer):
            raise ValueError(f"layer {name!r} cannot be factored: {reason} first, or leave the layer out by `where`")
        if not reason:
            found.append((name, layer))
    if not found:
        raise ValueError(_nothing_factored(model, where))
    for pattern in [] if where is None or callable(where) or isinstance(where, str) else where:
        if not any(_matches(model, name, pattern) for name, _ in found):
            raise ValueError(
                f"`where` has the pattern {pattern!r}, which takes no layer that can be factored; "
                f"rl.nn.factorable(model) lists the layers of the model with the reasons"
            )
    return found


def bare_name(model: nn.Module, name: str) -> str:
    """Return the name that a module has in the model without wrappers.

    Args:
        model: the model, possibly inside the wrapper of `torch.compile`, DataParallel or PEFT.
        name: name of a module in it.

    >>> import torch
    >>> bare_name(torch.nn.DataParallel(torch.nn.Linear(2, 2)), "module.encoder._orig_mod.fc")
    'encoder.fc'
    """
    found, core = WRAPPED.sub("", name).removeprefix("."), model
    while isinstance(inner := core._modules.get("_orig_mod") or core._modules.get("module"), nn.Module):
        if "_orig_mod" not in core._modules:
            if len(core._modules) > 1 or not found.startswith(PARALLEL):  # a part of the model that is called "module"
                break
            found = found.removeprefix(PARALLEL)
        core = inner
    return found.removeprefix(PEFT) if hasattr(core, "peft_config") else found


def _reasons(model: nn.Module, where: Where) -> Iterator[tuple[str, nn.Module, str]]:
    """Yield every layer with weights, with its name and the reason why it is not factored."""
    known = {id(layer) for *_, layer in layers_with_weights(model)}
    factors = {id(part) for module in model.modules() if isinstance(module, Composition) for part in module.modules()}
    for name, layer in model.named_modules():
        composed = isinstance(layer, Composed | ComposedMultiheadAttention)
        if id(layer) in factors or not (composed or id(layer) in known):
            continue
        reason = _reason(layer)
        can_be = not reason or reason == _is_computed(layer)
        yield name, layer, reason if not can_be or _takes(model, where, name, layer) else "`where` leaves it out"


def _reason(layer: nn.Module) -> str:
    """Return why a layer with weights is not factored, whatever `where` says; "" if it is."""
    kind = type(layer).__name__
    if isinstance(layer, Composed | ComposedMultiheadAttention):
        return "it is factored already; call rl.nn.collapse first"
    computed = _is_computed(layer)
    if computed:
        return computed
    if type(layer) is nn.MultiheadAttention:
        own = layer._parameters.get("in_proj_weight") is not None
        return "" if own else "its keys and values have sizes of their own, and so no common weight"
    if type(layer) in COMPOSED or is_transposed(layer):
        return "" if layer._parameters.get("weight") is not None else "it has no weight of its own"
    base = next((known.__name__ for known in PLAIN.values() if isinstance(layer, known)), None)
    if base is not None:
        return f"{kind} is a subclass of {base}, which may compute something else with its weight"
    return f"layers of class {kind} are not factored"


def _is_computed(layer: nn.Module) -> str:
    """Return how a layer gets a weight that it computes from other Parameters, and the remedy; "" for all others."""
    if nn.utils.parametrize.is_parametrized(layer):
        names = ", ".join(map(repr, getattr(layer, "parametrizations", ())))
        return f"its {names} is parametrized; call torch.nn.utils.parametrize.remove_parametrizations(layer, {names})"
    own = {*layer._parameters, *layer._buffers}
    for name, remedy in REMEDIES.items():
        if name in own:
            return f"a hook computes its weight from {name!r}; call {remedy}"
    return ""


def _takes(model: nn.Module, where: Where, name: str, layer: nn.Module) -> bool:
    """Return whether `where` selects a layer. A string is a single pattern."""
    if where is None:
        return True
    if callable(where):
        return where(name, layer)
    return any(_matches(model, name, pattern) for pattern in ([where] if isinstance(where, str) else where))


def _matches(model: nn.Module, name: str, pattern: str) -> bool:
    """Return whether a pattern fits the name of a layer, with or without what wrappers add to it."""
    return fnmatchcase(name, pattern) or fnmatchcase(bare_name(model, name), pattern)


def _nothing_factored(model: nn.Module, where: Where) -> str:
    """Return the message for a model in which no layer was factored: which layers `where` could have named."""
    rows = list(_reasons(model, None))
    names = [bare_name(model, name) for name, _, reason in rows if not reason]
    if not names:
        plain = [layer.__name__ for layer in PLAIN.values()]
        kinds = ", ".join(dict.fromkeys([*plain, "MultiheadAttention", "Conv1D of transformers"]))
        found = "; ".join(dict.fromkeys(f"{name!r}: {reason}" for name, _, reason in rows[:NAMES_SHOWN]))
        return (
            f"nothing was factored: the model has no plain layer of a type that can be factored, which are {kinds}; "
            f"its layers with weights are: {found or 'none'}"
        )
    shown = ", ".join(map(repr, names[:NAMES_SHOWN])) + (", ..." if len(names) > NAMES_SHOWN else "")
    return (
        f"nothing was factored: `where` is {where!r}, which takes none of the {len(names)} layers that can be "
        f"factored; their names are {shown}, and a pattern such as 'name.*' takes all layers inside a module"
    )
