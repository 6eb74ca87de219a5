"""TensorCompleter: entries of a tensor from some that are seen, by any family of networks, without a rank."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator
from sklearn.metrics import r2_score
from sklearn.utils.validation import check_is_fitted

from ranklens.completers.check import check_arguments, check_pairs
from ranklens.completers.completion import Settings, complete
from ranklens.completers.entries import copied, predict
from ranklens.completers.polish import widths
from ranklens.completers.seen import Biases, Seen
from ranklens.tensors import families, init
from ranklens.tensors.network import TensorNetwork

WIDTHS = {"cp": 128, "hierarchical": 64, "tensor_train": 16, "tucker": 8}  # at most so wide by default: caps, stated
CENTRED = 0.2  # of the root mean square: the mean of data that count as centred
Family = str | TensorNetwork | Callable[[Sequence[int]], TensorNetwork]


class TensorCompleter(BaseEstimator):  # type: ignore[misc]
    r"""Learn a tensor from some of its entries, without being told its rank.

    The network descends from a small start; under gradient flow the norm of a component at a bond of K nodes obeys
    d sigma / dt = K sigma^(2 - 2/K) <-gradient, component>, so components rise one at a time and those that the data do
    not ask for stay small. Held-out entries end the descent; backward elimination then takes off components
    that cost nothing (two that are alike are one), least squares refine each size, and held-out entries choose.

    Args:
        shape: sizes of the N modes.
        family: "cp" | "hierarchical" | "tensor_train" | "tucker", a network (copied), or a function of the shape
            that makes one; its own values are replaced by the small start.
        scale: standard deviation of the entries at the start, in units of the data's root mean square; None takes
            1e-3. Data that are not centred start on the side of their mean.
        width: of all bonds, a cap on the rank; None takes what the family needs so that rank is not limited, but at
            most 128 for CP, 64 for hierarchical, 16 for trains, 8 for Tucker; not used for networks and functions.
        biases: whether a mean and one number per index of every mode come first.
        held_out, max_steps, learning_rate, patience, batch_size, device, random_state: as for `MatrixCompleter`.

    Attributes:
        network_: the learnt network without biases, in units of the data, or None where nothing was worth its place.
        widths_: {bond: number of components}.
        rmse_: held-out errors of "biases" alone, of the "descent", and after the "polish".
        profile_: Dataset of component norms of every bond ("standing"), effective rank and losses along the descent.

    Raises:
        ValueError: for arguments or data that make no sense; each says which.

    Source: Razin, Maman, Cohen (ICML 2021 and 2022) for tensor and hierarchical factorization from a small start.

    >>> import torch, ranklens as rl
    >>> target = rl.targets.cp((8, 9, 10), rank=2)
    >>> task = rl.Completion.sample(target, observed=300)
    >>> completer = rl.TensorCompleter((8, 9, 10), max_steps=500).fit(task.indices, task.values)
    >>> everywhere = torch.cartesian_prod(*map(torch.arange, target.shape))
    >>> completer.widths_, bool(completer.score(everywhere, target.ravel()) > 0.9999)
    ({'r': 2}, True)
    """

    def __init__(  # noqa: PLR0913  (scikit-learn takes all settings here)
        self,
        shape: Sequence[int],
        family: Family = "cp",
        *,
        scale: float | None = None,
        width: int | None = None,
        biases: bool = False,
        held_out: float = 0.1,
        max_steps: int = 2000,
        learning_rate: float = 0.01,
        patience: float = 5.0,
        batch_size: int | None = None,
        device: torch.device | str | None = None,
        random_state: int = 0,
    ) -> None:
        self.shape, self.family = shape, family
        self.scale, self.width, self.biases = scale, width, biases
        self.held_out, self.max_steps, self.learning_rate = held_out, max_steps, learning_rate
        self.patience, self.batch_size, self.device, self.random_state = patience, batch_size, device, random_state

    def fit(self, indices: ArrayLike, values: ArrayLike) -> "TensorCompleter":
        """Learn from entries.

        Args:
            indices: (m, N) integers, or a frame with one column per mode.
            values: (m,) numbers; an entry may be seen more than once.
        """
        seed = check_arguments(self)
        shape = tuple(int(d) for d in self.shape)
        pairs = check_pairs(indices, shape)
        numbers = np.asarray(values, dtype=np.float64).copy()  # frames hand out what may not be written to
        if numbers.shape != (len(pairs),) or not len(pairs):
            raise ValueError(
                f"{len(pairs)} rows of indices and values of shape {numbers.shape}; give one value per row"
            )
        if not np.isfinite(numbers).all():
            row = int(np.argwhere(~np.isfinite(numbers))[0, 0])
            raise ValueError(f"value {numbers[row]} in row {row} is not finite; leave that observation out")
        settings = Settings.of(self, seed)

        def start(left: Seen, dtype: torch.dtype) -> TensorNetwork:
            net = self._network(shape).to(dtype=dtype, device=self.device)
            return leaning_(init.scaled_(net, 1e-3 if self.scale is None else self.scale, seed=seed), left)

        found = complete(Seen(torch.from_numpy(pairs), torch.from_numpy(numbers), shape), start, settings)
        self.rmse_, self.profile_ = found.rmse, found.profile
        self._biases = Biases(
            found.biases.mean * found.scale,
            tuple(mode.cpu() * found.scale for mode in found.biases.modes),
            found.biases.damping,
        )
        self.network_ = None
        if found.net is not None:
            self.network_ = copied(found.net.cpu())
            with torch.no_grad():
                self.network_.nodes[0].mul_(found.scale)
        self.widths_ = {} if self.network_ is None else widths(self.network_)
        return self

    def _network(self, shape: tuple[int, ...]) -> TensorNetwork:
        if isinstance(self.family, TensorNetwork):
            net = copied(self.family)
        elif callable(self.family):
            net = copied(self.family(shape))
        elif self.family in WIDTHS:
            width = _width(self.family, shape) if self.width is None else self.width
            net = getattr(families, self.family)(shape, width)
        else:
            raise ValueError(f"family is {self.family!r}; choose one of {sorted(WIDTHS)}, a network or a function")
        if net.shape != shape:
            raise ValueError(f"the network has shape {net.shape}, the tensor {shape}; they must agree")
        if net.frozen:
            raise ValueError(f"nodes {net.frozen} of the network are frozen; a completer solves for all of them")
        return net

    def predict(self, indices: ArrayLike) -> Any:
        """Entries at (m, N) positions: an array, or for a frame of positions a series with its index."""
        check_is_fitted(self)
        pairs = torch.from_numpy(check_pairs(indices, tuple(int(d) for d in self.shape)))
        found = self._biases.at(pairs)
        if self.network_ is not None:
            found = found + predict(self.network_, pairs)
        numbers: NDArray[np.float64] = found.numpy()
        return pd.Series(numbers, index=indices.index) if isinstance(indices, pd.DataFrame) else numbers

    def score(self, indices: ArrayLike, values: ArrayLike) -> float:
        """Coefficient of determination R^2 of predictions at positions."""
        return float(r2_score(np.asarray(values, dtype=np.float64), np.asarray(self.predict(indices))))


@torch.no_grad()
def leaning_(net: TensorNetwork, seen: Seen) -> TensorNetwork:
    """Where data are not centred, give every node a mean as large as its standard deviation.

    A random start knows no direction: the gradient of a row is a sum over its entries with weights of random signs,
    which for modes of thousands of levels is all noise. On the side of the mean the signs agree, so that the largest
    component of such data is found at once, and the others from what it leaves.
    """
    mean = float(seen.values.mean())
    if abs(mean) > CENTRED * float(seen.values.square().mean().sqrt()):
        for k, node in enumerate(net.nodes):
            node.add_(node.std() if node.numel() > 1 else 0.0)
            if k == 0 and mean < 0:
                node.neg_()
    return net


def _width(family: str, shape: tuple[int, ...]) -> int:
    """The least of the default cap and of what the family never needs more of."""
    if family == "tucker":
        return min(WIDTHS[family], max(shape))
    total = int(np.prod([float(d) for d in shape]) // max(shape))
    return max(min(WIDTHS[family], total), 1)
