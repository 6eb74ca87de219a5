"""The initial deep matrix of the 2 x 2 example, whose product has a positive determinant."""

import torch

from ranklens import seeds
from ranklens.tensors import families, init
from ranklens.tensors.network import TensorNetwork


def positive_determinant(depth: int, std: float, seed: int) -> TensorNetwork:
    """Return a balanced deep 2 x 2 matrix whose product is Gaussian with a positive determinant.

    If the drawn matrix has a negative determinant, its two rows are exchanged, which changes the sign.

    Args:
        depth: number of factors.
        std: standard deviation of the entries of the product.
        seed: seed of the drawn matrix.

    >>> import torch
    >>> net = positive_determinant(3, 1e-3, seed=1)
    >>> bool(torch.linalg.det(net.tensor()) > 0), bool(net.imbalance() < 1e-14)
    (True, True)
    """
    [W] = seeds.normals([(2, 2)], seed, "start of the counterexample")
    W = W if float(torch.linalg.det(W)) > 0 else W.flip(0)
    return init.product_(families.deep_matrix((2, 2), depth), std * W)
