"""A small network of layers that can be factored, inputs for layers, and how close two outputs are."""

import torch
from torch import nn

# Relative error of two ways to add up to some hundreds of float64 products of numbers of equal size.
SAME = 1e-12
# The same in float32, and after a float64 number has been rounded to float32.
SAME_SINGLE = 1e-5


def small_net():
    layers = [nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 5)]
    return nn.Sequential(*layers).double()


def batch(*shape, seed=0):
    """Independent standard normal numbers in float64."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def truncated(weight, rank):
    """The weight of a rank that is nearest to a weight, both as matrices."""
    U, s, Vh = torch.linalg.svd(weight.detach().flatten(1), full_matrices=False)
    return ((U[:, :rank] * s[:rank]) @ Vh[:rank]).reshape(weight.shape)


def off(found, expected):
    """The largest difference of two tensors, relative to the largest entry of the second (absolute if it is zero)."""
    assert found.shape == expected.shape
    found, expected = found.detach(), expected.detach()
    return float((found - expected).abs().max()) / (float(expected.abs().max()) or 1.0)
