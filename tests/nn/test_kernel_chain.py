"""Chains of kernels against convolutions applied one after the other."""

import pytest
import torch
from layer_cases import SAME, batch, off
from torch import nn

import ranklens as rl
from ranklens.nn.composed import by_chain

pytestmark = pytest.mark.usefixtures("initial_values")


@pytest.mark.parametrize("sizes", [(3,), (5,), (3, 3), (5, 5), (7, 3), (3, 3, 3)])
@pytest.mark.parametrize("kind", ["expanded", "stacked"])
def test_expanded_kernels_are_their_layers_one_by_one(kind, sizes):
    """The padding of the layer is applied once, before the first kernel of the chain."""
    dims = len(sizes)
    plain = getattr(nn, f"Conv{dims}d")(3, 4, sizes, padding=2, bias=False).double()
    deep = rl.nn.overparameterize(plain, kind=kind, init=0.7)
    convolve = getattr(nn.functional, f"conv{dims}d")
    x = batch(2, 3, *[7] * dims)
    expected = nn.functional.pad(x, [2, 2] * dims)
    for kernel in deep.composition.network.kernels:
        expected = convolve(expected, kernel)
    assert off(deep(x), expected) <= SAME
    assert deep.weight.is_contiguous()
    assert deep.weight.shape == plain.weight.shape
    assert float(deep.weight.detach().square().mean().sqrt() / plain.weight.detach().std()) == pytest.approx(
        0.7, rel=0.5
    )
    assert torch.equal(rl.nn.collapse(deep)(x), deep(x))


def test_an_expanded_linear_goes_through_its_factors():
    deep, x = rl.nn.overparameterize(nn.Linear(6, 5).double(), kind="expanded"), batch(2, 6)
    assert [tuple(k.shape) for k in deep.composition.network.kernels] == [(24, 6), (20, 24), (5, 20)]
    assert by_chain(2, deep.composition.chain())
    assert off(deep(x), nn.functional.linear(x, deep.weight, deep.bias)) <= SAME


def test_kernels_that_do_not_follow_on_each_other():
    with pytest.raises(ValueError, match=r"a kernel of shape \(2, 5, 3\) cannot follow one of shape \(4, 3, 3\)"):
        rl.nn.KernelChain([(4, 3, 3), (2, 5, 3)])
