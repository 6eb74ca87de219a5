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


def independent(depth: int, std: float, seed: int) -> TensorNetwork:
    """Return a deep 2 x 2 matrix of independent Gaussian factors, which are not balanced, with a positive determinant.

    An entry of a product of `depth` factors with standard deviation a has the standard deviation a^depth * 2^((depth -
    1) / 2), because it is a sum of 2^(depth - 1) products. If the determinant of the product is negative, the two rows
    of the first factor are exchanged, which changes the sign.

    Args:
        depth: number of factors.
        std: standard deviation of the entries of the product.
        seed: seed of the factors.

    >>> import torch
    >>> net = independent(3, 1e-3, seed=0)
    >>> bool(torch.linalg.det(net.tensor()) > 0), bool(net.imbalance() > 1e-3)
    (True, True)
    """
    factor = (std / 2 ** ((depth - 1) / 2)) ** (1 / depth)
    net = families.deep_matrix((2, 2), depth, std=factor, seed=seed)
    with torch.no_grad():
        if float(torch.linalg.det(net.tensor())) < 0:
            net.nodes[0].copy_(net.nodes[0].flip(0))
    return net
