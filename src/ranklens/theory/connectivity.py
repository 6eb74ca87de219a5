"""The graph of the observed entries of a matrix, which decides between low rank and low nuclear norm."""

import numpy as np
import torch
from jaxtyping import Int
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from ranklens.problems import Completion
from ranklens.tensors.annotations import checked


@checked
def observation_components(task: Completion) -> Int[Tensor, " rows_and_columns"]:
    r"""Return the connected component of every row and column in the bipartite graph of observed entries.

    The vertices of the graph are the rows and columns, and every observed entry (i, j) joins row i to column j. If the
    graph is connected, its observed entries determine a matrix of rank one. If not, they do not determine it: in one
    component all rows may be scaled by c and all columns by 1 / c. The flow of depth 2 from an infinitesimal
    initialization finds low rank if the graph is connected, and the least nuclear norm if it is not.

    Args:
        task: a completion of a matrix.

    Returns:
        (rows + columns,) numbers of components, counted from 0, rows first. A row or column without observations is a
        component of its own.

    Raises:
        ValueError: for a completion of a tensor that is no matrix.

    Source: Bai, Zhao, Zhang (NeurIPS 2024).

    >>> import torch, ranklens as rl
    >>> corners = torch.tensor([[0, 0], [1, 1]])  # entries of a 2 x 2 matrix that share no row or column
    >>> rl.theory.observation_components(rl.Completion(corners, torch.ones(2), (2, 2))).tolist()
    [0, 1, 0, 1]
    >>> int(rl.theory.observation_components(rl.Completion.counterexample()).max()) + 1
    1
    """
    if len(task.shape) != 2:
        raise ValueError(f"the problem is about tensors of shape {task.shape}; rows and columns are those of a matrix")
    rows, columns = task.shape
    i, j = task.indices.T.numpy()
    graph = coo_array((np.ones(len(i)), (i, rows + j)), shape=(rows + columns, rows + columns))
    return torch.from_numpy(connected_components(graph, directed=False)[1]).long()
