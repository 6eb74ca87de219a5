"""What is observed of a tensor, and the loss of fitting it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from ranklens import contract, losses
from ranklens.losses import AnyLoss, Loss
from ranklens.network import TensorNetwork, check_indices
from ranklens.seeds import stream


@dataclass(frozen=True)
class Split:
    """Two problems made of one: what is fitted, and what is held out."""

    train: Any
    held_out: Any


class _Problem:
    """What completion and both kinds of sensing share: values, a loss, an optional target."""

    values: Tensor
    target: Tensor | None
    objective: Loss
    shape: tuple[int, ...]

    def __init__(self, values: Tensor, shape: Sequence[int], target: Tensor | None, loss: AnyLoss) -> None:
        self.values = _check_values(values)
        self.shape = tuple(shape)
        self.objective = losses.resolve(loss)
        self.target = None if target is None else _check_target(target, self.shape)
        self._moved: dict[Any, Any] = {}

    def __len__(self) -> int:
        """Number of observations."""
        return len(self.values)

    def predict(self, tensor: TensorNetwork | Tensor) -> Tensor:
        """What a network or a tensor gives at the observations."""
        self._check_shape(tensor)
        return self._predict(tensor)

    def _check_shape(self, tensor: TensorNetwork | Tensor) -> None:
        shape = tuple(tensor.shape)
        if shape != self.shape:
            raise ValueError(f"the problem is about tensors of shape {self.shape}, not {shape}")

    def _predict(self, tensor: TensorNetwork | Tensor) -> Tensor:
        raise AssertionError("every problem says how it observes")

    def loss(self, tensor: TensorNetwork | Tensor) -> Tensor:
        """The loss of a network or of a tensor: a differentiable scalar."""
        prediction = self.predict(tensor)
        return self.objective(prediction, self._like("values", prediction))

    def error(self, tensor: TensorNetwork | Tensor) -> Tensor:
        """Recovery error |tensor - target| / |target| over all entries, seen and unseen.

        Raises:
            ValueError: when the problem does not know its target.
        """
        if self.target is None:
            raise ValueError("the recovery error needs the ground truth; pass target= when making the problem")
        self._check_shape(tensor)
        found = (tensor.tensor() if isinstance(tensor, TensorNetwork) else tensor).detach()
        target = self._like("target", found)
        scale = target.abs().max()  # squares of what is divided by it neither under- nor overflow
        return ((found - target) / scale).norm() / (target / scale).norm()

    def _like(self, name: str, other: Tensor) -> Tensor:
        """An own tensor with the dtype (unless integer) and device of another, converted once."""
        own: Tensor = getattr(self, name)
        dtype = other.dtype if own.dtype.is_floating_point else own.dtype
        key = (name, dtype, other.device)
        if key not in self._moved:
            with torch.inference_mode(False):  # it is kept, also for what is trained afterwards
                self._moved[key] = own.to(dtype=dtype, device=other.device)
        return self._moved[key]

    def subset(self, rows: Tensor) -> Any:
        """The problem made of some of the observations."""
        raise AssertionError("every problem says what a part of it is")

    def split(self, fraction: float = 0.1, *, seed: int = 0) -> Split:
        """Hold out a random fraction of the observations: `.train` and `.held_out`.

        Raises:
            ValueError: if one of the two would be empty.
        """
        held = round(fraction * len(self))
        if not 0 < held < len(self):
            raise ValueError(f"a fraction of {fraction} of {len(self)} observations leaves one part empty")
        order = torch.randperm(len(self), generator=stream(seed, "split"))
        return Split(self.subset(order[held:].sort().values), self.subset(order[:held].sort().values))


class Completion(_Problem):
    """Some entries of a tensor are observed; the loss compares them with a network's.

    Args:
        indices: (m, N) integers, one row per observed entry.
        values: (m,) what was observed.
        shape: sizes of the N modes.
        target: the whole tensor, if known, for `error`.
        loss: "mse" | "half_sse" | "huber" | "l1" | a Loss | a callable (prediction, value) -> elementwise.
        duplicates: "error" refuses an entry observed twice with different values; "keep" lets it count as often as
            it is observed, "mean" replaces it by its mean.

    Raises:
        ValueError: for no observations, indices outside the shape, values that are not finite or conflict.
        TypeError: for indices that are not integers, values that are not numbers.

    >>> import torch, ranklens as rl
    >>> task = rl.Completion(torch.tensor([[0, 1], [1, 0]]), torch.tensor([1.0, 2.0]), (2, 2))
    >>> float(task.loss(torch.zeros(2, 2, dtype=torch.float64)))
    2.5
    """

    def __init__(
        self,
        indices: Tensor,
        values: Tensor,
        shape: Sequence[int],
        *,
        target: Tensor | None = None,
        loss: AnyLoss = "mse",
        duplicates: Literal["error", "keep", "mean"] = "error",
    ) -> None:
        super().__init__(values, shape, target, loss)
        if not self.shape:
            raise ValueError("shape is (), a single number; completion needs at least one mode")
        self.indices = check_indices(indices, self.shape)
        if len(self.indices) != len(self.values):
            raise ValueError(f"{len(self.indices)} indices and {len(self.values)} values; give one value per row")
        if duplicates not in ("error", "keep", "mean"):
            raise ValueError(f"duplicates is {duplicates!r}; choose 'error', 'keep' or 'mean'")
        if duplicates != "keep":
            self._merge(duplicates)
        small = math.prod(self.shape) < 2**62
        self.flat = contract.flatten(self.indices, self.shape) if small else self.indices

    def _merge(self, duplicates: str) -> None:
        rows, inverse, counts = self.indices.unique(dim=0, return_inverse=True, return_counts=True)
        if len(rows) == len(self.indices):
            return
        low = torch.full((len(rows),), math.inf, dtype=self.values.dtype, device=self.values.device).scatter_reduce(
            0, inverse, self.values, "amin"
        )
        high = torch.full_like(low, -math.inf).scatter_reduce(0, inverse, self.values, "amax")
        if duplicates == "error" and bool((low != high).any()):
            k = int((low != high).nonzero()[0])
            raise ValueError(
                f"entry {tuple(rows[k].tolist())} is observed {int(counts[k])} times with values from "
                f"{float(low[k]):g} to {float(high[k]):g}; choose duplicates='keep' or duplicates='mean'"
            )
        sums = torch.zeros_like(low).scatter_add(0, inverse, self.values)
        self.indices, self.values = rows, sums / counts if duplicates == "mean" else low

    def _predict(self, tensor: TensorNetwork | Tensor) -> Tensor:
        if isinstance(tensor, Tensor):
            return tensor.reshape(-1)[self._like("flat", tensor)]
        if contract.reads_whole(tensor.layout, len(self)):
            return tensor.tensor().reshape(-1)[self._like("flat", tensor.stacks[0])]
        return contract.entries(tensor.layout, tensor.stacks, self._like("indices", tensor.stacks[0]))

    def subset(self, rows: Tensor) -> "Completion":
        """The problem made of some of the observations, by row."""
        return Completion(
            self.indices[rows],
            self.values[rows],
            self.shape,
            target=self.target,
            loss=self.objective,
            duplicates="keep",
        )

    @classmethod
    def sample(
        cls, target: Tensor, observed: int, *, seed: int = 0, noise: float = 0.0, loss: AnyLoss = "mse"
    ) -> "Completion":
        """Observe `observed` different entries of a target, drawn uniformly, with Gaussian noise of a given std.

        Raises:
            ValueError: if more entries are asked for than there are, or none, or noise is negative.
        """
        if not 1 <= observed <= target.numel():
            raise ValueError(f"observed is {observed}; the target has {target.numel()} entries, take 1 to that many")
        if not (math.isfinite(noise) and noise >= 0):
            raise ValueError(f"noise is {noise}; it is a standard deviation, zero or more")
        flat = torch.randperm(target.numel(), generator=stream(seed, "observed entries"))[:observed].sort().values
        indices = torch.stack(torch.unravel_index(flat, target.shape), dim=1)
        values = target.detach().double().cpu().reshape(-1)[flat]
        drawn = torch.randn(observed, generator=stream(seed, "noise"), dtype=torch.float64)
        return cls(indices, values + noise * drawn, tuple(target.shape), target=target, loss=loss)

    @classmethod
    def counterexample(
        cls, d: int = 2, z: float = 1.0, z2: float = 1.0, *, eps: float = 0.0, loss: AnyLoss = "half_sse"
    ) -> "Completion":
        """A d x d problem where fitting drives every norm to infinity: entry (0, 0) is unobserved.

        Observed are w01 = z, w10 = z2, w11 = eps, ones on the rest of the diagonal and zeros elsewhere. With eps = 0
        every solution has determinant -z z2, so a start of the other sign can fit only with |w00| -> infinity.

        Raises:
            ValueError: for d < 2, or z z2 = 0.

        Source: Razin and Cohen (NeurIPS 2020), equation (5), Theorem 1 and appendix on perturbations.
        """
        if d < 2:
            raise ValueError(f"d is {d}; the counterexample needs at least 2 rows")
        if z * z2 == 0 or not math.isfinite(z * z2 * (1 + eps)):
            raise ValueError(f"z = {z}, z2 = {z2}, eps = {eps}; z and z2 must differ from zero and all be finite")
        target = torch.eye(d, dtype=torch.float64)
        target[0, 1], target[1, 0], target[1, 1], target[0, 0] = z, z2, eps, 0.0
        indices = torch.cartesian_prod(torch.arange(d), torch.arange(d))[1:]
        return cls(indices, target.reshape(-1)[1:], (d, d), loss=loss)


class Sensing(_Problem):
    """Inner products with rank-one tensors are observed: y_i = <W, x_i1 outer ... outer x_iN>.

    Args:
        vectors: (m, N, d), or N tensors (m, d_n).
        values: (m,) what was observed.
        target: the whole tensor, if known.
        loss: as for Completion.

    Raises:
        ValueError: for shapes that do not fit, or values that are not finite.
    """

    def __init__(
        self,
        vectors: Tensor | Sequence[Tensor],
        values: Tensor,
        *,
        target: Tensor | None = None,
        loss: AnyLoss = "mse",
    ) -> None:
        parts = tuple(vectors.unbind(1)) if isinstance(vectors, Tensor) else tuple(vectors)
        for n, part in enumerate(parts):
            if part.ndim != 2 or len(part) != len(values) or not bool(torch.isfinite(part).all()):
                raise ValueError(
                    f"vectors of mode {n} have shape {tuple(part.shape)}, or entries that are not finite; "
                    f"expected ({len(values)}, d), finite"
                )
        super().__init__(values, [part.shape[1] for part in parts], target, loss)
        self.vectors = [part.detach() for part in parts]

    def _predict(self, tensor: TensorNetwork | Tensor) -> Tensor:
        like = tensor if isinstance(tensor, Tensor) else tensor.stacks[0]
        vectors = [part.to(like) for part in self.vectors]
        if isinstance(tensor, TensorNetwork):
            return contract.evaluate(tensor.layout, tensor.stacks, vectors)
        result = tensor.unsqueeze(0)
        for part in vectors:
            result = torch.einsum("zi...,zi->z...", result.expand(len(part), *result.shape[1:]), part)
        return result

    def subset(self, rows: Tensor) -> "Sensing":
        """The problem made of some of the observations, by row."""
        vectors = [part[rows] for part in self.vectors]
        return Sensing(vectors, self.values[rows], target=self.target, loss=self.objective)


class DenseSensing(_Problem):
    """Inner products with whole tensors are observed: y_i = <A_i, W>.

    Args:
        operators: (m, *shape).
        values: (m,) what was observed.
        target: the whole tensor, if known.
        loss: as for Completion.

    Raises:
        ValueError: for operators that are not finite or do not fit the values.
    """

    def __init__(
        self, operators: Tensor, values: Tensor, *, target: Tensor | None = None, loss: AnyLoss = "mse"
    ) -> None:
        if operators.ndim < 2 or len(operators) != len(values) or not bool(torch.isfinite(operators).all()):
            raise ValueError(
                f"operators have shape {tuple(operators.shape)}, or entries that are not finite; "
                f"expected ({len(values)}, *shape), finite"
            )
        super().__init__(values, operators.shape[1:], target, loss)
        self.operators = operators.detach().flatten(1).double()

    def _predict(self, tensor: TensorNetwork | Tensor) -> Tensor:
        whole = tensor.tensor() if isinstance(tensor, TensorNetwork) else tensor
        return self._like("operators", whole) @ whole.reshape(-1)

    def subset(self, rows: Tensor) -> "DenseSensing":
        """The problem made of some of the observations, by row."""
        operators = self.operators[rows].reshape(-1, *self.shape)
        return DenseSensing(operators, self.values[rows], target=self.target, loss=self.objective)


def _check_values(values: Tensor) -> Tensor:
    if not isinstance(values, Tensor) or values.dtype.is_complex or values.dtype == torch.bool:
        kind = values.dtype if isinstance(values, Tensor) else type(values).__name__
        raise TypeError(f"values are {kind}; pass a tensor of real numbers")
    if values.ndim != 1 or len(values) == 0:
        raise ValueError(f"values have shape {tuple(values.shape)}; pass (m,) of at least one observation")
    wrong = ~torch.isfinite(values)
    if bool(wrong.any()):
        row = int(wrong.nonzero()[0])
        raise ValueError(f"value {float(values[row])} in row {row} is not finite; leave that observation out")
    return values.detach().double()


def _check_target(target: Tensor, shape: tuple[int, ...]) -> Tensor:
    if tuple(target.shape) != shape or not bool(torch.isfinite(target).all()):
        raise ValueError(f"target has shape {tuple(target.shape)}, or entries that are not finite; expected {shape}")
    return target.detach().double()
