"""Residual networks have the published numbers of parameters and repeat from their seed."""

import pytest
import torch
from torch import nn

import ranklens as rl
from ranklens.nn.resnet import ResidualBlock


@pytest.mark.parametrize(("depth", "parameters"), [(18, 11_177_025), (34, 21_285_185)])
def test_residual_networks_are_the_published_ones(depth, parameters):
    """11.69 and 21.80 million with a thousand classes; one logit has 999 * 513 fewer."""
    model = rl.nn.resnet(depth)
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert sum(p.numel() for p in rl.nn.resnet(depth, outputs=1000).parameters()) == parameters + 999 * 513
    assert model(torch.zeros(2, 3, 64, 64)).shape == (2, 1)
    assert sum(isinstance(m, nn.Conv2d) for m in model.modules()) == {18: 20, 34: 36}[depth]


def test_they_repeat_and_follow_their_seed():
    first, again, other = (
        torch.cat([p.detach().flatten() for p in rl.nn.resnet(18, channels=1, seed=seed).parameters()])
        for seed in (4, 4, 5)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.usefixtures("initial_values")
@pytest.mark.parametrize(("into", "out", "stride"), [(3, 3, 1), (3, 6, 1), (3, 3, 2)])
def test_a_block_without_its_body_is_its_shortcut(into, out, stride):
    """With the last batch-norm's scale at zero the block is ReLU of the shortcut, the identity where shapes agree."""
    block = ResidualBlock(into, out, stride)
    nn.init.zeros_(block.body[-1].weight)
    x = torch.linspace(-1, 1, 2 * into * 25).reshape(2, into, 5, 5)
    found = block(x)
    assert found.shape == (2, out, -(-5 // stride), -(-5 // stride))
    assert torch.equal(found, block.shortcut(x).relu())
    assert isinstance(block.shortcut, nn.Identity) == ((into, stride) == (out, 1))


def test_other_depths_are_refused():
    with pytest.raises(ValueError, match="depth is 50; there are residual networks of 18 and 34"):
        rl.nn.resnet(50)
