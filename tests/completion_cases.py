"""What the tests of completers share: matrices with missing entries, whole tensors as observations, and errors."""

import numpy as np
import torch

import ranklens as rl
from ranklens.completers.observed import Observed

FAMILIES = {
    "matrix": lambda: rl.deep_matrix((4, 5), 2, 2, std=1.0),
    "deep matrix": lambda: rl.deep_matrix((4, 5), 3, 3, std=1.0),
    "cp": lambda: rl.cp((3, 4, 5), 2, std=1.0),
    "hierarchical": lambda: rl.hierarchical((2, 3, 2, 3), 2, std=1.0),
    "train": lambda: rl.tensor_train((3, 4, 2), 2, std=1.0),
    "tucker": lambda: rl.tucker((3, 4, 2), 2, std=1.0),
}


def everything(target):
    """All entries of a tensor, observed."""
    indices = torch.cartesian_prod(*map(torch.arange, target.shape))
    return Observed(indices, target.detach().reshape(-1), tuple(target.shape))


def planted(shape, rank, share, *, noise=0.0, seed=0):
    """A matrix of low rank with missing entries, and the whole matrix."""
    target = rl.targets.low_rank_matrix(shape, rank, seed=seed)
    task = rl.Completion.sample(target, observed=round(share * target.numel()), noise=noise, seed=seed)
    X = np.full(shape, np.nan)
    X[tuple(task.indices.numpy().T)] = task.values.numpy()
    return X, target.numpy()


def observed(X):
    """The entries of a matrix that are not NaN."""
    return Observed(torch.from_numpy(np.argwhere(~np.isnan(X))), torch.from_numpy(X[~np.isnan(X)]), X.shape)


def relative_error(found, target):
    """The norm of the difference over the norm of the target."""
    return np.linalg.norm(np.asarray(found) - np.asarray(target)) / np.linalg.norm(target)
