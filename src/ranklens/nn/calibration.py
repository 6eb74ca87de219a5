"""Data that a model is run on to be cut: batches of any form, and the moments of what layers take in and put out."""

import inspect
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ranklens import seeds

# A function that runs a model on some data. What it returns is the output of the model, if it returns one.
Run = Callable[[nn.Module], object]
# Entries of a chunk of rows that is converted to float64 at a time: 128 MiB.
CHUNK = 2**24
# Moments of no rows: a zero that takes any shape.
NOTHING = torch.zeros((), dtype=torch.float64)
# Names under which the models of transformers return their output, in the order in which they are looked for.
OUTPUTS = ("logits", "last_hidden_state")


class Runs:
    """The runs of a model on data: one for each batch, or a single one if the data are a function of the model.

    Args:
        data: a tensor, a tuple of positional arguments or a mapping of named arguments, which are one batch; an
            iterable of such batches, of which lists count as tuples; or a function that runs the model it is given on
            data, the same in every call. An iterator is read once, and its batches are kept.
        name: name of the argument, for messages.

    Attributes:
        by_batch: whether there is a run for each batch.
    """

    def __init__(self, data: object, name: str = "data") -> None:
        self.by_batch = True
        self._name = name
        self._batches: Iterable[object] = ()
        self._function: Run | None = None
        if isinstance(data, Tensor | tuple | Mapping):
            self._batches = [data]
        elif isinstance(data, Iterable):
            self._batches = list(data) if isinstance(data, Iterator) else data
        elif callable(data):
            self.by_batch, self._function = False, data
        else:
            raise TypeError(
                f"{name} is of type {type(data).__name__}; give a batch (a tensor, a tuple or a mapping), an "
                f"iterable of batches, or a function that runs the model"
            )

    def __iter__(self) -> Iterator[Run]:
        """Yield the runs."""
        if self._function is not None:
            yield _repeatable(self._function)
            return
        empty = True
        for batch in self._batches:
            empty = False
            yield _run_of(batch, self._name)
        if empty:
            raise ValueError(f"{self._name} has no batches; give at least one")


def _repeatable(function: Run) -> Run:
    """Return a function that draws the same random numbers in each call, and leaves the global generator alone."""

    def run(model: nn.Module) -> object:
        with seeds.initial_values(0, "calibration"):
            return function(model)

    return run


def _run_of(batch: object, name: str) -> Run:
    """Return the run of a model on one batch of an argument of this name.

    Raises:
        TypeError: for a batch that is neither a tensor nor a list, tuple or mapping.
    """
    positional: tuple[object, ...] = ()
    named: dict[str, object] = {}
    if isinstance(batch, Mapping):
        named = {str(key): value for key, value in batch.items()}
    elif isinstance(batch, tuple | list):
        positional = tuple(batch)
    elif isinstance(batch, Tensor):
        positional = (batch,)
    else:
        raise TypeError(
            f"{name} has a batch of type {type(batch).__name__}; give a tensor, a tuple or a mapping of tensors"
        )

    def run(model: nn.Module) -> object:
        try:
            inspect.signature(model.forward).bind(*positional, **named)
        except TypeError as error:
            what = f"{len(positional)} positional arguments" if positional else f"the arguments {', '.join(named)}"
            raise ValueError(
                f"{name} has a batch with {what}, which {type(model).__name__}.forward does not take ({error}); give "
                f"batches of the model's inputs only, as in data=[x for x, y in loader], or a function that runs the "
                f"model"
            ) from error
        place = next((p.device for p in model.parameters()), None)
        moved = [_at(value, place) for value in positional]
        try:
            return model(*moved, **{key: _at(value, place) for key, value in named.items()})
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            raise ValueError(
                f"the model does not run on a batch of {name} of {_shapes(batch)}: {error}; give batches of the shape "
                f"and dtype that the model takes"
            ) from error

    return run


def _shapes(batch: object) -> str:
    """Return the shapes and dtypes of the tensors in a batch, for a message."""
    values = batch.values() if isinstance(batch, Mapping) else batch if isinstance(batch, tuple | list) else [batch]
    found = [f"{tuple(x.shape)} {str(x.dtype).removeprefix('torch.')}" for x in values if isinstance(x, Tensor)]
    return ", ".join(found) or "no tensors"


def _at(value: object, device: torch.device | None) -> object:
    """Return a tensor on a device, and everything else as it is."""
    return value.to(device) if isinstance(value, Tensor) and device is not None else value


def output_of(found: object) -> Tensor:
    """Return the tensor in what a model returned.

    Args:
        found: a tensor, or an object with an attribute or a mapping with a key `logits` or `last_hidden_state`.

    Returns:
        The tensor.

    Raises:
        TypeError: if there is none.
    """
    if isinstance(found, Tensor):
        return found
    for name in OUTPUTS:
        value = found.get(name) if isinstance(found, Mapping) else getattr(found, name, None)
        if isinstance(value, Tensor):
            return value
    raise TypeError(
        f"the model gives a {type(found).__name__}, and only tensors can be compared, or the {' or '.join(OUTPUTS)} of "
        f"an object; wrap the model so that it returns a tensor, or leave out batch="
    )


def output_error(plain: nn.Module, small: nn.Module, runs: Runs, *, optional: bool = False) -> float:
    """Return the relative error in Frobenius norm of a model's output over data.

    Args:
        plain: the model whose output is expected.
        small: the model whose output is compared.
        runs: the data.
        optional: whether to return NaN if the outputs cannot be compared.

    Returns:
        The norm of the difference divided by the norm of what was expected; 0 if that is zero.

    Raises:
        TypeError: if outputs are no tensors, unless the error is optional.
    """
    error, size = 0.0, 0.0
    for run in runs:
        try:
            expected = output_of(run(plain)).detach().clone()
        except TypeError:
            if optional:
                return math.nan
            raise
        error += float((output_of(run(small)) - expected).double().square().sum())
        size += float(expected.double().square().sum())
    return math.sqrt(error / size) if size > 0 else 0.0


@contextmanager
def evaluating(*models: nn.Module) -> Iterator[None]:
    """Put models into evaluation mode without gradients, and restore the mode of every module afterwards.

    The fused path of the transformer layers of torch is switched off, because it does not call the layers inside.

    Yields:
        Nothing.
    """
    modes = {module: module.training for model in models for module in model.modules()}
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        for model in models:
            model.eval()
        with torch.no_grad():
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
        for module, training in modes.items():
            module.training = training


class _Enough(BaseException):
    """All layers that are watched have run; the rest of the model need not."""


# What is done with a call of a layer: a function of the layer's name, its input and its output.
Take = Callable[[str, Tensor, Tensor], None]


def watch(
    run: Run, model: nn.Module, layers: Mapping[str, nn.Module], take: Take, counts: Mapping[str, int] | None = None
) -> object:
    """Run a model and pass every call of some of its layers to a function.

    Args:
        run: the run.
        model: the model, in evaluation mode.
        layers: the layers by name.
        take: the function. It must copy what it keeps, because the model may change tensors in place.
        counts: the number of calls of each layer in this run, if known; the model then stops after the last one.

    Returns:
        What the run returned; None if it was stopped.
    """
    done = dict.fromkeys(layers, 0)

    def hook_of(name: str) -> Callable[[nn.Module, tuple[object, ...], dict[str, object], Tensor], None]:
        def hook(_: nn.Module, args: tuple[object, ...], named: dict[str, object], output: Tensor) -> None:
            value = args[0] if args else next(iter(named.values()))
            assert isinstance(value, Tensor)
            take(name, value, output)
            done[name] += 1
            if counts is not None and all(done[key] >= counts[key] for key in layers):
                raise _Enough

        return hook

    handles = [layer.register_forward_hook(hook_of(name), with_kwargs=True) for name, layer in layers.items()]
    try:
        return run(model)
    except _Enough:
        return None
    finally:
        for handle in handles:
            handle.remove()


@dataclass
class Moments:
    """Means and centred products of rows that come in parts, in float64: of one kind of rows, or of two side by side.

    Each part is centred by its own mean before its products are formed, so a mean that is far larger than the
    variation costs no digits.

    Attributes:
        count: number of rows so far.
        mean: mean of the rows, for each group.
        scatter: sum over the rows of the products of their deviations from the mean.
        mean_of_others: mean of the rows at their side, for each group.
        cross: sum over the rows of the products of the deviations of the rows at their side and their own.
        scatter_of_others: sum over the rows of the squared deviations of the rows at their side.
    """

    count: int = 0
    mean: Tensor = NOTHING
    scatter: Tensor = NOTHING
    mean_of_others: Tensor = NOTHING
    cross: Tensor = NOTHING
    scatter_of_others: Tensor = NOTHING

    def add(
        self, rows: Float[Tensor, "groups rows width"], others: Float[Tensor, "groups rows other"] | None = None
    ) -> None:
        """Take in further rows, in chunks that are converted to float64 one after the other.

        Args:
            rows: the rows.
            others: the rows at their side; either in all calls or in none.
        """
        beside = rows[..., :0] if others is None else others
        step = max(CHUNK // max(rows.shape[0] * (rows.shape[2] + beside.shape[2]), 1), 1)
        for part, other in zip(rows.split(step, dim=1), beside.split(step, dim=1), strict=True):
            if part.shape[1]:
                self._merge(_of_part(part.double(), other.double()))

    def _merge(self, part: "Moments") -> None:
        """Take in the moments of further rows."""
        total = self.count + part.count
        share, weight = part.count / total, self.count * part.count / total
        apart, aside = part.mean - self.mean, part.mean_of_others - self.mean_of_others
        self.scatter = self.scatter + part.scatter + weight * apart[..., None] * apart[..., None, :]
        self.cross = self.cross + part.cross + weight * aside[..., None] * apart[..., None, :]
        self.scatter_of_others = self.scatter_of_others + part.scatter_of_others + weight * aside.square()
        self.mean, self.mean_of_others = self.mean + share * apart, self.mean_of_others + share * aside
        self.count = total

    @property
    def covariance(self) -> Float[Tensor, "groups width width"]:
        """Return the covariance of the rows, with their number as denominator."""
        return self.scatter / self.count

    def is_finite(self) -> bool:
        """Return whether all rows so far were finite."""
        return all(bool(torch.isfinite(x).all()) for x in (self.scatter, self.mean, self.cross, self.mean_of_others))


def _of_part(rows: Tensor, others: Tensor) -> Moments:
    """Return the moments of rows in float64."""
    mean, beside = rows.mean(1), others.mean(1)
    centred, aside = rows - mean[:, None], others - beside[:, None]
    return Moments(rows.shape[1], mean, centred.mT @ centred, beside, aside.mT @ centred, aside.square().sum(1))


def recalibrate_(model: nn.Module, runs: Runs) -> None:
    """Set the running statistics of all batch-norm layers of a model to their averages over data, in place.

    Args:
        model: the model. Its other state and the mode of its modules are kept.
        runs: the runs, of which every batch counts alike.
    """
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats]
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    with evaluating(model):
        try:
            for norm in norms:
                norm.reset_running_stats()
                norm.momentum, norm.training = None, True  # no momentum means the plain average of all batches
            for run in runs:
                run(model)
        finally:
            for norm, momentum in zip(norms, momenta, strict=True):
                norm.momentum = momentum
