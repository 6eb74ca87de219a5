"""The graph of what is observed of a matrix, which decides between low rank and low nuclear norm."""

import numpy as np
import torch
from jaxtyping import Int
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from ranklens.problems import Completion


def observation_components(task: Completion) -> Int[Tensor, " rows_and_columns"]:
    r"""Which rows and columns hang together by observed entries: components of a bipartite graph.

    Rows and columns are vertices, and every observed entry (i, j) joins row i to column j. Where the graph is
    connected, a matrix of rank one is determined by its entries; between two components nothing is: row i may be
    scaled by c and column j by 1 / c. Depth 2 from an infinitesimal start then finds low rank if it is connected, and
    the least nuclear norm if not.

    Args:
        task: a completion of a matrix.

    Returns:
        (rows + columns,) component numbers from 0 on, rows first; a row without observations is one of its own.

    Raises:
        ValueError: for a tensor of other order.

    Source: Bai, Zhao, Zhang (NeurIPS 2024).

    >>> import torch, ranklens as rl
    >>> corners = torch.tensor([[0, 0], [1, 1]])  # of a 2 x 2 matrix: nothing joins them
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
