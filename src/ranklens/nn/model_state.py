"""The state of a model, which a measurement that runs it must not change: running statistics and dropout."""

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TypeVar

from torch import Tensor, nn

from ranklens.tensors import arguments

# Any function of a batch of inputs. Its output holds one logit or several per sample, as in `nn.logits.logits`.
Model = Callable[[Tensor], object]

M = TypeVar("M", bound=nn.Module)


def replaced(model: M, name: str, part: nn.Module) -> M:
    """Return a model with one of its modules replaced, in place.

    Args:
        model: the model.
        name: name of the module; if it is empty, the module is the model itself.
        part: what takes its place.

    Returns:
        The model, or the part if the name is empty.
    """
    if not name:
        return part  # type: ignore[return-value]
    parent, _, last = name.rpartition(".")
    setattr(model.get_submodule(parent), last, part)
    return model


def all_names(model: nn.Module, module: nn.Module) -> list[str]:
    """Return all names under which a model uses a module."""
    return [name for name, found in model.named_modules(remove_duplicate=False) if found is module]


def modes(model: nn.Module) -> dict[str, bool]:
    """Return whether each module of a model is in training mode, by all its names."""
    return {name: module.training for name, module in model.named_modules(remove_duplicate=False)}


def set_modes(model: nn.Module, known: dict[str, bool]) -> None:
    """Put the modules of a model into training or evaluation mode, in place.

    Args:
        model: the model.
        known: whether a module is in training mode, by name; others take the mode of the module that they are in.
    """
    for name, module in model.named_modules():
        place = name
        while place not in known:
            place = place.rpartition(".")[0]
        module.training = known[place]


def bare(model: nn.Module) -> nn.Module:
    """Return the module inside the wrappers of `torch.compile`, DataParallel and DistributedDataParallel."""
    while True:
        if isinstance(model, nn.parallel.DistributedDataParallel | nn.DataParallel):
            model = model.module
        elif type(model).__name__ == "OptimizedModule" and isinstance(model._modules.get("_orig_mod"), nn.Module):
            model = model.get_submodule("_orig_mod")
        else:
            return model


def copied(model: M, instead: Mapping[nn.Module, nn.Module] | None = None) -> M:
    """Return a deep copy of a model.

    Tensors with a graph that modules keep as plain attributes, such as weights that hooks of weight_norm and pruning
    compute and stored outputs, are copied without their graph, which `copy.deepcopy` alone refuses.

    Args:
        model: the model.
        instead: modules that take the place of others in the copy. Those others are not copied, nor is their memory.

    Returns:
        The copy.

    Raises:
        ValueError: if a module holds something that cannot be copied; it names the module and the attribute.
    """
    arguments.instance("model", model, nn.Module)
    memo: dict[int, object] = {id(old): new for old, new in (instead or {}).items()}
    for module in model.modules():
        for value in vars(module).values():
            if isinstance(value, Tensor) and not value.is_leaf:
                memo[id(value)] = value.detach().clone()
    try:
        return copy.deepcopy(model, dict(memo))
    except Exception as error:
        raise ValueError(_not_copied(model, memo, error)) from error


def _not_copied(model: nn.Module, memo: dict[int, object], error: Exception) -> str:
    """Return the message for a model that cannot be copied, which names the first module and attribute at fault."""
    for name, module in model.named_modules():
        for key, value in vars(module).items():
            if key == "_modules":
                continue
            try:
                copy.deepcopy(value, dict(memo))
            except Exception as found:
                return (
                    f"the model cannot be copied: attribute {key!r} of module {name!r} ({type(module).__name__}) holds "
                    f"a {type(value).__name__} that copy.deepcopy refuses ({found}); remove it first"
                )
    return f"the model cannot be copied: {error}"


def without_wrapper(model: Model) -> Model:
    """Return the module inside a DistributedDataParallel or DataParallel model; return any other model itself.

    The module's parameters still carry the hooks that average gradients over processes.
    """
    return model.module if isinstance(model, nn.parallel.DistributedDataParallel | nn.DataParallel) else model


def active_dropout(model: Model) -> Iterator[nn.Module]:
    """Return an iterator over the dropout modules that are in training mode with a positive probability.

    With such a module, two forward passes differ by chance. There is none in a function that is not a module.
    """
    modules = model.modules() if isinstance(model, nn.Module) else ()
    return (m for m in modules if isinstance(m, nn.modules.dropout._DropoutNd) and m.training and m.p > 0)


@contextmanager
def state_kept(model: Model) -> Iterator[None]:
    """Run a model without updates of running statistics and without dropout, and restore its flags afterwards.

    Args:
        model: a module whose state is kept. Any other function has no such state, and nothing is done.

    Yields:
        Nothing.
    """
    modules = list(model.modules()) if isinstance(model, nn.Module) else []
    norms = [m for m in modules if isinstance(m, nn.modules.batchnorm._NormBase) and m.training]
    flags = [(m, m.track_running_stats, m.momentum) for m in norms]
    dropout = list(active_dropout(model))
    for norm in norms:
        if isinstance(norm, nn.modules.instancenorm._InstanceNorm):
            norm.momentum = 0.0  # instance norm ignores the flag `track_running_stats`, but heeds its momentum
        else:
            norm.track_running_stats = False
    for module in dropout:
        module.training = False
    try:
        yield
    finally:
        for norm, track, momentum in flags:
            norm.track_running_stats, norm.momentum = track, momentum
        for module in dropout:
            module.training = True
