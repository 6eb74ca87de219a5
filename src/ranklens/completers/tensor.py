"""TensorCompleter: entries of a tensor from some observed ones, by any family of networks, without a given rank."""

import dataclasses
import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import partial
from typing import TypeAlias

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator
from sklearn.metrics import r2_score
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from ranklens.completers.check import check_arguments, check_positions
from ranklens.completers.completion import Settings, complete
from ranklens.completers.entries import predict
from ranklens.completers.explanation import Explained
from ranklens.completers.factors import is_factored
from ranklens.completers.observed import Observed
from ranklens.completers.polish import widths
from ranklens.completers.prepared import HeldOut
from ranklens.completers.sampling import MakeFeatures
from ranklens.completers.side import Features, smooth_features, strengths
from ranklens.completers.table import check_no_masks
from ranklens.tensors import arguments, families, init
from ranklens.tensors.annotations import checked
from ranklens.tensors.network import TensorNetwork

# The default width of the bonds of each family, which is also a cap on the rank, is at most this.
WIDTHS = {"cp": 128, "hierarchical": 64, "tensor_train": 16, "tucker": 8}
# The default of `scale`: smaller than any component that counts, and large enough to grow within a few hundred steps.
SMALL_START = 1e-3
# Data count as centred if their mean is below this share of their root mean square.
CENTRED = 0.2
Family = str | TensorNetwork | Callable[[Sequence[int]], TensorNetwork]
Vector: TypeAlias = NDArray[np.float64] | pd.Series
Predictions: TypeAlias = Vector | tuple[Vector, Vector]


class TensorCompleter(Explained, BaseEstimator):  # type: ignore[misc]
    r"""Fit a tensor to some of its entries, without being given its rank, and predict the others.

    A tensor network is trained on the observed entries from a small initialization. Under gradient flow the norm of a
    component at a bond of K nodes obeys d sigma / dt = K sigma^(2 - 2/K) <-gradient, component / sigma>, so components
    grow one after the other, and those that the data do not need stay small. The training stops when the error on
    held-out entries no longer falls. Backward elimination then leaves out components one after the other, least squares
    fit every size, and the size and ridge that predict the held-out entries best are chosen. A last fit uses all
    entries.

    Args:
        shape: sizes of the N modes.
        family: "cp" | "hierarchical" | "tensor_train" | "tucker", a network, or a function of the shape that returns
            one. Only the equation and the sizes of a network are used; it is copied, and its values are replaced by the
            initialization.
        scale: standard deviation of the entries at the initialization, in units of the data's root mean square; None
            takes 1e-3. If the mean of the data is far from zero, the initialization has a mean of its sign.
        width: size of all bonds, a cap on the rank; not used if `family` is a network or a function. None takes a width
            at which the family has every tensor of the shape, but at most 128 for CP, 64 for hierarchical, 16 for
            tensor trains and 8 for Tucker.
        biases: whether to fit a mean, and one bias per index of every mode, with the network. None lets held-out
            entries decide.
        held_out: fraction of the observed entries that is held out to decide when to stop, and to choose size, ridge
            and damping. "entries" holds out a tenth of them, and "blocks" a tenth of the blocks, which are all entries
            along the mode that the observed entries fill most: use it where blocks are missing, such as days. Or a
            function of the (m, N) positions and a seed, which returns a mask of the held-out entries.
        max_steps: number of training steps, at most.
        learning_rate: length of a step, in units of the nodes' norms at the end of the training.
        patience: training stops at this many times the step of its best held-out error, but never while the loss is
            still on the plateau of the initialization.
        batch_size: entries per step. None takes all of up to 2^20 entries, and 2^18 of more.
        device: device of the training and the refinement, such as "cuda".
        posterior: number of draws of the factors from their posterior, for "cp" and networks of two nodes. 0 predicts
            by least squares. None keeps 100 draws, fewer if they would take more than half a gibibyte, and none for
            more than 2^19 entries or another family. See `MatrixCompleter`.
        smooth: {mode: strength} of modes with an order, such as time: the factors of neighbouring indices are then
            likely to be alike. A mode is given by its position, or by its name if the indices are a frame. The strength
            is the standard deviation of the smooth part of a factor before the fit, in units of the rest; the data
            adapt it, and held-out entries decide whether it is used. With "auto" for a strength, held-out entries
            choose it from 0.1 to 10, a common one for all such modes. Only for posteriors.
        random_state: an integer, the seed of the split, of the initialization, of mini-batches and of draws; a
            RandomState or Generator of numpy, from which the seed is drawn; or None, for a seed that differs between
            fits.

    Attributes:
        network_: the fitted network without biases, in the units of the data; None if the biases alone (or zero,
            without biases) predict the held-out entries as well.
        widths_: {label of the bond as text: number of components} of `network_`; empty without a network.
        rmse_: {name: held-out root mean square error}, in the units of the data: of the "biases" alone, after the
            "descent" (the training), after the "polish" (elimination and least squares), and of the "posterior", if one
            was drawn. Without biases, "biases" is the error of predicting zero. If this prediction fits the training
            entries exactly, or only one entry is observed, rmse_ is {"biases": 0.0}.
        posterior_: whether the mean of the posterior predicts; otherwise the network and its biases do.
        smooth_: {mode: strength} of the smooth modes of the posterior that predicts; empty if it uses none.
        profile_: a Dataset over `step` of the training. With one bond it has `standing` over (step, standing_rank), the
            component norms in descending order, and `effective_rank`. With several it has `standing_0`, `standing_1`
            and so on, and `effective_rank_0` and so on, in the order of the network's `bonds`. `train_loss` and
            `held_out_loss` are mean squared errors, divided by the mean square that the biases leave on the training
            entries. Without training, the Dataset is empty.

    Raises:
        ValueError: for arguments or data out of range; the message names them.
        TypeError: for arguments of a wrong type.

    Source: Razin, Maman, Cohen (ICML 2021 and 2022), tensor and hierarchical factorization from a small initialization.

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
        biases: bool | None = None,
        held_out: HeldOut = 0.1,
        max_steps: int = 2000,
        learning_rate: float = 0.01,
        patience: float = 5.0,
        batch_size: int | None = None,
        device: torch.device | str | None = None,
        posterior: int | None = None,
        smooth: Mapping[Hashable, float | str] | None = None,
        random_state: object = 0,
    ) -> None:
        self.shape, self.family = shape, family
        self.scale, self.width, self.biases = scale, width, biases
        self.held_out, self.max_steps, self.learning_rate = held_out, max_steps, learning_rate
        self.patience, self.batch_size, self.device, self.random_state = patience, batch_size, device, random_state
        self.posterior, self.smooth = posterior, smooth

    def fit(self, indices: ArrayLike | pd.DataFrame, values: ArrayLike) -> "TensorCompleter":
        """Fit the completer to observed entries.

        Args:
            indices: (m, N) integer positions, or a frame with one column per mode. A position may occur more than once.
            values: (m,) values at the positions.

        Returns:
            The completer.

        Raises:
            ValueError: if draws are wanted of a family that has none.
        """
        seed = check_arguments(self)
        shape = self._shape()
        observed = _check_observations(indices, values, shape)

        def initialize(residual: Observed, dtype: torch.dtype) -> TensorNetwork:
            net = self._network(shape).to(dtype=dtype, device=self.device)
            return leaning_(init.scaled_(net, SMALL_START if self.scale is None else self.scale, seed=seed), residual)

        if not is_factored(self._network(shape)) and self.posterior:  # the network is checked in any case
            raise ValueError(
                f"posterior is {self.posterior}, but no posterior of a network of the family {self.family!r} can be "
                f"sampled; pass posterior=0, or family='cp'"
            )
        tried = strengths(self.smooth or {})
        ways = self._ways(indices, shape, tried)
        found = complete(observed, initialize, Settings.of(self, seed), ways=ways, clear_ways=len(tried))
        used = found.sampled.posterior is not None and found.sampled.way < len(tried)
        self.smooth_ = tried[found.sampled.way] if used else {}
        self.rmse_, self.profile_, self._explanation = dict(found.rmse), found.profile, found.explanation
        self._posterior, self.posterior_ = found.sampled.posterior, found.sampled.posterior is not None
        biases = found.biases.times(found.scale)
        self._biases = dataclasses.replace(biases, modes=tuple(mode.cpu() for mode in biases.modes))
        self.network_ = None
        if found.net is not None:
            first, *others = (node.detach().cpu() for node in found.net.nodes)
            self.network_ = found.net.with_nodes([found.scale * first, *others])
        self.widths_ = {} if self.network_ is None else widths(self.network_)
        return self

    def _ways(
        self, indices: ArrayLike | pd.DataFrame, shape: tuple[int, ...], tried: Sequence[Mapping[Hashable, float]]
    ) -> list[MakeFeatures | None]:
        """Return functions that make features of the modes: smooth ones, of every strength, where wanted; and none.

        Raises:
            ValueError: for a mode that the tensor does not have.
        """
        names = list(indices.columns) if isinstance(indices, pd.DataFrame) else []

        def groups_of(smooth: Mapping[Hashable, float]) -> list[list[Features]]:
            groups: list[list[Features]] = [[] for _ in shape]
            for mode, strength in smooth.items():
                place = names.index(mode) if mode in names else mode
                if not isinstance(place, int) or not 0 <= place < len(shape):
                    raise ValueError(f"smooth has the mode {mode!r}; the modes are {names or list(range(len(shape)))}")
                groups[place].append(smooth_features(shape[place], strength))
            return groups

        if not self.smooth:
            return [None]
        return [*(partial(_same, groups_of(smooth)) for smooth in tried), None]

    def _shape(self) -> tuple[int, ...]:
        """Return the sizes of the modes as integers."""
        shape = arguments.sequence("shape", self.shape)
        return tuple(arguments.count(f"shape[{n}]", d) for n, d in enumerate(shape))

    def _network(self, shape: tuple[int, ...]) -> TensorNetwork:
        """Return a new network of the family.

        Raises:
            ValueError: for an unknown family, or a network that does not fit the shape or has frozen nodes.
        """
        if isinstance(self.family, TensorNetwork):
            net = self.family.with_nodes(self.family.nodes)
        elif callable(self.family):
            made = self.family(shape)
            net = made.with_nodes(made.nodes)
        elif self.family in WIDTHS:
            width = _width(self.family, shape) if self.width is None else self.width
            net = getattr(families, self.family)(shape, width)
        else:
            raise ValueError(f"family is {self.family!r}; choose one of {sorted(WIDTHS)}, a network or a function")
        if net.shape != shape:
            raise ValueError(f"the network has shape {net.shape}, the tensor {shape}; they must agree")
        if net.frozen:
            raise ValueError(f"nodes {net.frozen} of the network are frozen; a completer fits all nodes: freeze none")
        return net

    @checked
    def predict(self, indices: ArrayLike | pd.DataFrame, return_std: bool = False) -> Predictions:
        """Predict entries at positions.

        Args:
            indices: (m, N) integer positions, or a frame with one column per mode.
            return_std: whether to return the standard deviation of an observation of every entry too, noise included.
                Without a posterior, it is the held-out root mean square error.

        Returns:
            (m,) predictions: for a frame a series with the frame's index, else an array. With `return_std`, a pair of
            predictions and standard deviations.
        """
        check_is_fitted(self)
        positions = check_positions(indices, self._shape())
        found = [self._means(positions)]
        if return_std:
            error = self.rmse_["biases" if self.network_ is None else "polish"]
            constant = torch.full((len(positions),), error, dtype=torch.float64)
            found.append(constant if self._posterior is None else self._posterior.deviation(positions))
        numbers = [part.numpy() for part in found]
        if isinstance(indices, pd.DataFrame):
            numbers = [pd.Series(part, index=indices.index) for part in numbers]
        return (numbers[0], numbers[1]) if return_std else numbers[0]

    def _means(self, positions: Int[Tensor, "m order"]) -> Float[Tensor, " m"]:
        """Return the predictions at positions: by the posterior, or by the network and the biases."""
        if self._posterior is not None:
            return self._posterior.at(positions)
        found = self._biases.at(positions)
        return found if self.network_ is None else found + predict(self.network_, positions)

    def score(self, indices: ArrayLike | pd.DataFrame, values: ArrayLike) -> float:
        """Return the coefficient of determination R^2 of predictions.

        Args:
            indices: (m, N) integer positions, or a frame with one column per mode.
            values: (m,) values at the positions.

        Returns:
            1 minus the sum of squared errors divided by the sum of squared deviations of the values from their mean.
        """
        found = np.asarray(self.predict(indices))
        with arguments.reading("values"):
            return float(r2_score(np.asarray(values, dtype=np.float64), found))


def _same(groups: list[list[Features]], entries: Observed) -> list[list[Features]]:
    """Return groups of features that do not depend on which entries may be used."""
    return groups


def _check_observations(indices: ArrayLike | pd.DataFrame, values: ArrayLike, shape: tuple[int, ...]) -> Observed:
    """Return observed entries after checking them.

    Args:
        indices: (m, N) integer positions.
        values: (m,) values.
        shape: sizes of the N modes.

    Raises:
        ValueError: for no entries, another number of values than of positions, or values that are not finite.
    """
    positions = check_positions(indices, shape)
    check_no_masks(values, "values")
    with arguments.reading("values"):
        numbers = np.asarray(values, dtype=np.float64).copy()  # frames share arrays that may not be written to
    if numbers.shape != (len(positions),) or not len(positions):
        raise ValueError(
            f"{len(positions)} rows of indices and values of shape {numbers.shape}; give one value per row"
        )
    if not np.isfinite(numbers).all():
        row = int(np.argwhere(~np.isfinite(numbers))[0, 0])
        raise ValueError(f"value {numbers[row]} in row {row} is not finite; leave that observation out")
    return Observed(positions, torch.from_numpy(numbers), shape)


@torch.no_grad()
def leaning_(net: TensorNetwork, observed: Observed) -> TensorNetwork:
    """Give every node a mean as large as its standard deviation, if the observed values are not centred.

    Around an initialization of mean zero, the gradient of a node's row is a sum over the row's entries with weights of
    random signs. In modes of thousands of indices this sum is mostly noise. With a mean the signs agree, so the largest
    component of data with a mean is found at once, and the others from what that component leaves.

    Args:
        net: the network, changed in place.
        observed: the entries to fit. If their mean is negative, so is that of the network.

    Returns:
        The network.
    """
    mean = observed.mean()
    if abs(mean) > CENTRED * math.sqrt(observed.mean_square()):
        for k, node in enumerate(net.nodes):
            node.add_(node.std() if node.numel() > 1 else 0.0)
            if k == 0 and mean < 0:
                node.neg_()
    return net


def _width(family: str, shape: tuple[int, ...]) -> int:
    """Return the default width: at which the family has every tensor of the shape, but at most that of `WIDTHS`."""
    if family == "tucker":
        return min(WIDTHS[family], max(shape))
    total = int(np.prod([float(d) for d in shape]) // max(shape))
    return max(min(WIDTHS[family], total), 1)
