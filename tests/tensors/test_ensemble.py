"""An ensemble keeps copies of its networks, whose members share its memory. dynamics/test_ensemble.py descends them."""

import pytest
import torch

import ranklens as rl


@pytest.fixture
def nets():
    return [rl.cp((2, 3, 4), rank=5, std=0.5, seed=seed).freeze(1) for seed in range(3)]


def test_members_share_memory_with_the_stacks_and_not_with_the_given_networks(nets):
    before = [net.tensor().detach() for net in nets]
    ensemble = rl.stack(nets)
    assert len(ensemble) == len(ensemble.members) == 3
    for member, net, wanted in zip(ensemble.members, nets, before, strict=True):
        assert torch.equal(member.tensor(), wanted)
        assert member.frozen == net.frozen
    with torch.no_grad():
        for stack in ensemble.stacks:
            stack.mul_(2.0)
    for member, net, wanted in zip(ensemble.members, nets, before, strict=True):
        assert torch.equal(member.tensor(), 8 * wanted)
        assert torch.equal(net.tensor(), wanted)


def test_members_follow_the_ensemble_to_another_dtype(nets):
    ensemble = rl.stack(nets, step_sizes=[1.0, 2.0, 0.5])
    wanted = [member.tensor().detach().float() for member in ensemble.members]
    ensemble.float()
    assert [member.dtype for member in ensemble.members] == [torch.float32] * 3
    assert ensemble.step_sizes.dtype == torch.float32
    for member, tensor in zip(ensemble.members, wanted, strict=True):
        torch.testing.assert_close(member.tensor(), tensor)


def test_members_follow_the_ensemble_to_another_device(nets):
    """The device that has shapes and no memory, since not every machine has an accelerator."""
    ensemble = rl.stack(nets).to("meta")
    for member in ensemble.members:
        assert {node.device.type for node in member.nodes} == {"meta"}
        assert (member.shape, member.frozen) == (nets[0].shape, nets[0].frozen)


def test_nodes_are_those_of_the_members(nets):
    ensemble = rl.stack(nets)
    for k, node in enumerate(ensemble.nodes()):
        assert torch.equal(node, torch.stack([net.nodes[k] for net in nets]))


@pytest.mark.parametrize("factor", [-1.0, float("inf"), float("nan")])
def test_step_sizes_are_finite_and_not_negative(nets, factor):
    with pytest.raises(ValueError, match="give 3 finite factors, zero or more"):
        rl.stack(nets, step_sizes=[1.0, factor, 1.0])


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (lambda: rl.cp((2, 3, 4), rank=5).freeze(0), "members need one equation, sizes, frozen nodes"),
        (lambda: rl.cp((2, 3, 4), rank=5), "members need one equation, sizes, frozen nodes"),
        (lambda: rl.cp((2, 3, 4), rank=4).freeze(1), "members need one equation, sizes, frozen nodes"),
        (lambda: rl.cp((2, 3, 4), rank=5, dtype=torch.float32).freeze(1), "make them alike"),
    ],
)
def test_networks_that_differ_are_refused(nets, other, message):
    with pytest.raises(ValueError, match=message):
        rl.stack([*nets, other()])
