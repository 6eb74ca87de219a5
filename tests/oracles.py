"""Slow, literal transcriptions of the definitions, in numpy and loops. This file does not import the package."""

import itertools
import math

import numpy as np


def end_tensor(equation, nodes):
    """Return the end tensor of an einsum: every entry is a sum over all values of all bonds."""
    left, out = equation.split("->")
    labels = left.split(",")
    sizes = {x: d for names, node in zip(labels, nodes, strict=True) for x, d in zip(names, node.shape, strict=True)}
    bonds = [x for x in sizes if x not in out]
    result = np.zeros([sizes[x] for x in out])
    for values in itertools.product(*[range(sizes[x]) for x in [*out, *bonds]]):
        at = dict(zip([*out, *bonds], values, strict=True))
        factors = [node[tuple(at[x] for x in names)] for names, node in zip(labels, nodes, strict=True)]
        result[tuple(at[x] for x in out)] += math.prod(factors)
    return result


def component_norms(equation, nodes, bond):
    """Return the component norms of a bond: products of the norms of the slices at each value of the bond."""
    labels = equation.split("->")[0].split(",")
    met = [(node, names.index(bond)) for names, node in zip(labels, nodes, strict=True) if bond in names]
    size = met[0][0].shape[met[0][1]]
    return np.array([math.prod(np.linalg.norm(np.take(node, r, axis)) for node, axis in met) for r in range(size)])


def imbalance(equation, nodes):
    """Return the largest violation of balance over all bonds.

    It compares the Gram matrices of the two nodes at a bond of order 2, and squared slice norms at every bond.
    """
    labels = equation.split("->")[0].split(",")
    worst = 0.0
    for bond in set("".join(labels)) - set(equation.split("->")[1]):
        met = [(node, names.index(bond)) for names, node in zip(labels, nodes, strict=True) if bond in names]
        flat = [np.moveaxis(node, axis, 0).reshape(node.shape[axis], -1) for node, axis in met]
        if len(flat) == 2:
            worst = max(worst, np.linalg.norm(flat[0] @ flat[0].T - flat[1] @ flat[1].T))
        for a, b in itertools.combinations(flat, 2):
            worst = max(worst, np.abs((a**2).sum(axis=1) - (b**2).sum(axis=1)).max())
    return worst


def numerical_gradient(function, nodes, step=1e-6):
    """Return the gradient of a function of several arrays by central differences, one entry at a time."""
    gradients = []
    for node in nodes:
        gradient = np.zeros_like(node)
        for at in np.ndindex(*node.shape):
            kept = node[at]
            node[at] = kept + step
            above = function(nodes)
            node[at] = kept - step
            gradient[at] = (above - function(nodes)) / (2 * step)
            node[at] = kept
        gradients.append(gradient)
    return gradients


def matrix_gradients(nodes, G):
    """Return the gradients by every factor of a product of matrices, from the gradient G by the product."""
    found = []
    for k in range(len(nodes)):
        left = np.linalg.multi_dot([*nodes[:k], np.eye(nodes[k].shape[0])]) if k else np.eye(nodes[0].shape[0])
        after = nodes[k + 1 :]
        right = np.linalg.multi_dot([np.eye(nodes[k].shape[1]), *after]) if after else np.eye(nodes[k].shape[1])
        found.append(left.T @ G @ right.T)
    return found


def effective_rank(W):
    """Return the exponential of the entropy of the normalized singular values."""
    s = np.linalg.svd(W, compute_uv=False)
    if s.sum() == 0:
        return 0.0
    p = [x / s.sum() for x in s if x > 0]
    return math.exp(-sum(x * math.log(x) for x in p))


def matricize(T, modes):
    """Return the matrix with given modes as rows: every entry is put at its row-major row and column."""
    rest = [n for n in range(T.ndim) if n not in modes]
    result = np.zeros((math.prod(T.shape[n] for n in modes), math.prod(T.shape[n] for n in rest)))
    for at in np.ndindex(*T.shape):
        row = column = 0
        for n in sorted(modes):
            row = row * T.shape[n] + at[n]
        for n in rest:
            column = column * T.shape[n] + at[n]
        result[row, column] = T[at]
    return result


def product(table, rows):
    """Return prod_n table[n, rows[b, n], r], and the gradient of the sum of these products by the table."""
    batch, order = rows.shape
    result = np.ones((batch, table.shape[2]))
    gradient = np.zeros_like(table)
    for b in range(batch):
        picked = [table[n, rows[b, n]] for n in range(order)]
        for n in range(order):
            result[b] *= picked[n]
            gradient[n, rows[b, n]] += math.prod((picked[m] for m in range(order) if m != n), start=np.ones(1))
    return result, gradient


def cube_mode(target, start, times, steps_per_unit=20_000):
    """Return u at given times, where u' = u^2 (target - u^3), by the classical Runge-Kutta method with tiny steps.

    This is one singular mode of the gradient flow of a deep matrix of depth 3.
    """

    def slope(u):
        return u * u * (target - u**3)

    found, u, now = [], start, 0.0
    for time in times:
        count = max(1, math.ceil((time - now) * steps_per_unit))
        h = (time - now) / count
        for _ in range(count):
            a = slope(u)
            b = slope(u + h * a / 2)
            c = slope(u + h * b / 2)
            d = slope(u + h * c)
            u += h * (a + 2 * b + 2 * c + d) / 6
        now = time
        found.append(u)
    return np.array(found)
