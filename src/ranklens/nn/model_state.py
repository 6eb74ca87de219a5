"""The state of a model, which a measurement that runs it must not change: running statistics and dropout."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch import Tensor, nn

# Any function of a batch of inputs. Its output holds one logit or several per sample, as in `nn.logits.logits`.
Model = Callable[[Tensor], object]


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
