"""Weights that are computed from factors: how often, by which products, and what a training loop does to them."""

import copy
import io
import pickle
import subprocess
import sys

import pytest
import torch
from layer_cases import SAME, SAME_SINGLE, batch, off, small_net
from torch import nn

import ranklens as rl
from ranklens.nn.composed import by_chain, tensor_factored

# Relative error of outputs in bfloat16, which has 8 significant bits, through two layers and a normalization.
BFLOAT = 0.1

pytestmark = pytest.mark.usefixtures("initial_values")


def test_gradients_are_those_of_the_product():
    net = small_net()
    deep, x = rl.nn.overparameterize(net, depth=3), batch(2, 3, 4, 4)
    deep(x).square().sum().backward()
    weight = deep[4].composition.network.tensor().detach().requires_grad_()
    nn.functional.linear(deep[:4](x).detach(), weight, deep[4].bias.detach()).square().sum().backward()
    factors = [f.detach() for f in deep[4].composition.network.nodes]
    literal = weight.grad @ factors[2].T @ factors[1].T
    found = deep[4].composition.network.nodes[0]
    stacks = deep[4].composition.network.stacks
    assert all(s.grad is not None for s in stacks)
    gradient = torch.autograd.grad(deep(x).square().sum(), found, allow_unused=True)[0]
    if gradient is None:  # nodes may be views of one stack
        gradient = stacks[0].grad.reshape(-1, *literal.shape)[0] if stacks[0].ndim == 3 else stacks[0].grad
    assert off(gradient, literal) <= SAME


def test_it_is_composed_once_per_step():
    calls = []
    layer = rl.nn.overparameterize(nn.Conv2d(3, 4, 3).double())
    network, x = layer.composition.network, batch(2, 3, 5, 5)
    network.register_forward_hook(lambda *_: calls.append(1))
    original = type(network).tensor
    counted = {"n": 0}

    def tensor(self):
        counted["n"] += 1
        return original(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(network), "tensor", tensor)
        loss = layer(x).sum() + layer(2 * x).sum()
        assert counted["n"] == 1
        loss.backward()
        layer(x)
        assert counted["n"] == 2  # backward freed the graph
        layer(x)
        assert counted["n"] == 2
        with torch.no_grad():
            network.stacks[0].mul_(2.0)
        after = layer(x)
        assert counted["n"] == 3  # a factor changed
        with torch.no_grad():
            assert off(layer(x), after) <= SAME
        assert counted["n"] == 4  # gradients were switched off


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW, torch.optim.Adagrad])
@pytest.mark.parametrize("how", [{"fused": True}, {"foreach": True}, {"foreach": False}], ids=str)
def test_steps_of_every_optimizer_are_seen(kind, how):
    """Fused optimizers do not increase versions, and a step by the chain of factors leaves a kept weight in place."""
    layer = rl.nn.overparameterize(nn.Linear(16, 16)).double()
    few, many = batch(2, 16), batch(64, 16)
    optimizer = kind(layer.parameters(), lr=0.1, **how)
    for grad in (False, True):
        with torch.set_grad_enabled(grad):
            layer(many)  # computes the weight, which is kept
        layer(few).square().mean().backward()
        optimizer.step()
        with torch.set_grad_enabled(grad):
            one_by_one = torch.cat([layer(row[None]) for row in many])  # one row goes through the factors
            assert off(layer(many), one_by_one) <= SAME


def test_layers_that_are_unfrozen_are_trained():
    layer, x = rl.nn.overparameterize(nn.Conv2d(1, 2, 3).double()), batch(2, 1, 5, 5)
    layer.requires_grad_(False)
    layer(x)
    layer.requires_grad_(True)
    layer(x).sum().backward()
    assert all(p.grad is not None for p in layer.parameters())


def test_a_composed_weight_that_is_written_into_is_refused():
    layer, x = rl.nn.overparameterize(nn.Conv2d(1, 2, 3).double()), batch(2, 1, 5, 5)
    nn.init.zeros_(layer.weight)
    with pytest.raises(RuntimeError, match="changed in place, which changes none of its factors"):
        layer(x)


def test_factors_that_are_replaced_are_seen():
    layer, x = rl.nn.overparameterize(nn.Conv2d(1, 2, 3, bias=False).double()), batch(2, 1, 5, 5)
    layer(x)
    nn.utils.vector_to_parameters(torch.zeros(sum(p.numel() for p in layer.parameters())).double(), layer.parameters())
    assert float(layer(x).detach().abs().max()) == 0


def test_functional_transforms_leave_nothing_behind():
    layer, x = rl.nn.overparameterize(nn.Conv2d(1, 2, 3).double()), batch(2, 1, 5, 5)
    torch.func.jacrev(layer)(x)
    layer(x)
    torch.func.vmap(torch.func.grad(lambda x: layer(x[None]).sum()))(x)
    layer(x).sum().backward()
    assert all(p.grad is not None for p in layer.parameters())


def test_training_moves_the_function():
    """The composed weights follow the optimizer, so the training loss falls."""
    deep, x, y = rl.nn.overparameterize(small_net()), batch(8, 3, 4, 4), batch(8, 5, seed=1)
    optimizer = torch.optim.SGD(deep.parameters(), lr=0.02)
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        loss = (deep(x) - y).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.7 * losses[0]


def test_copies_pickles_and_state_dicts():
    deep, x = rl.nn.overparameterize(small_net()).eval(), batch(2, 3, 4, 4)
    wanted = deep(x).detach()
    assert torch.equal(copy.deepcopy(deep)(x), wanted)
    assert torch.equal(pickle.loads(pickle.dumps(deep))(x), wanted)
    other = rl.nn.overparameterize(small_net(), init=0.1).eval()
    file = io.BytesIO()
    torch.save(deep.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True))
    assert off(other(x), wanted) <= SAME


def test_moving_is_noticed():
    deep, x = rl.nn.overparameterize(small_net()).eval(), batch(2, 3, 4, 4)
    wanted = deep(x).detach()
    assert deep.float()(x.float()).dtype == torch.float32
    assert off(deep.double()(x), wanted) <= SAME_SINGLE


def test_second_derivatives():
    deep = rl.nn.overparameterize(nn.Linear(3, 2).double(), depth=3)

    def function(x):
        return deep(x).square().sum()

    assert torch.autograd.gradgradcheck(function, (batch(60, 3).requires_grad_(),))
    x = batch(60, 3).requires_grad_()
    (gradient,) = torch.autograd.grad(function(x), x, create_graph=True)
    gradient.square().sum().backward()
    assert all(p.grad is not None for name, p in deep.named_parameters() if name != "bias")


def test_autocast_and_checkpoints_and_inference():
    deep, x = rl.nn.overparameterize(small_net()).float().eval(), batch(4, 3, 4, 4).float()
    wanted = deep(x).detach()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = deep(x)
    assert rough.dtype == torch.bfloat16
    assert off(rough.float(), wanted) <= BFLOAT
    assert off(deep(x), wanted) <= SAME_SINGLE  # the weight computed under autocast is not used outside
    with torch.inference_mode():
        assert off(deep(x), wanted) <= SAME_SINGLE
    deep(x).sum().backward()  # the weight computed in inference mode, which has no graph, is not used here
    expected = [p.grad.clone() for p in deep.parameters()]
    deep.zero_grad()
    torch.utils.checkpoint.checkpoint(deep, x, use_reentrant=False).sum().backward()
    for found, gradient in zip((p.grad for p in deep.parameters()), expected, strict=True):
        assert off(found, gradient) <= SAME_SINGLE


def test_few_rows_go_through_the_factors():
    """The outputs agree; by the count of multiply-adds, few rows take the factors and many rows the product."""
    deep = rl.nn.overparameterize(nn.Linear(32, 32).double(), depth=3)
    chain = deep.composition.chain()
    assert by_chain(1, chain)
    assert not by_chain(10_000, chain)
    few, many = batch(3, 32), batch(500, 32)
    assert off(deep(many)[:3], deep(many[:3])) <= SAME
    assert off(deep(few), nn.functional.linear(few, deep.weight, deep.bias)) <= SAME
    assert off(deep(few.reshape(3, 1, 32)).squeeze(1), deep(few)) <= SAME


def test_tensor_factored_layers_are_found_by_the_name_of_their_layer():
    inner = nn.Sequential(nn.Linear(4, 4), nn.MultiheadAttention(4, 2))
    deep = rl.nn.overparameterize(nn.Sequential(inner, nn.Linear(4, 4)), where="0.*")
    found = {name: network for name, _, network in tensor_factored(deep)}
    assert sorted(found) == ["0.0", *[f"0.1.compositions.{k}" for k in range(3)], "0.1.out_proj"]
    [(name, composition, network)] = tensor_factored(rl.nn.overparameterize(nn.Linear(4, 4)))
    assert name == ""
    assert composition.network is network
    assert list(tensor_factored(rl.nn.overparameterize(nn.Linear(4, 4), kind="expanded"))) == []


def test_another_network_gives_another_weight():
    layer = rl.nn.overparameterize(nn.Linear(4, 3).double())
    before, network = layer.weight.detach().clone(), layer.composition.network
    layer.composition.replace(network.with_nodes([2 * node for node in network.nodes]))
    assert off(layer.weight, 2 ** len(network.nodes) * before) <= SAME


COMPILED = """
import torch, ranklens as rl
from torch import nn
torch.manual_seed(0)
rtol, atol = 1e-10, 1e-12  # compiled kernels add float64 numbers in another order
plain = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 5)).double()
x = torch.randn(2, 3, 4, 4).double()
for kind in ("matrix", "cp", "expanded"):
    deep = rl.nn.overparameterize(plain, depth=2, kind=kind)
    compiled = torch.compile(deep, backend="aot_eager")
    assert torch.allclose(compiled(x), plain(x), rtol, atol)
    compiled(x).sum().backward()
    found = [p.grad.clone() for p in deep.parameters()]
    deep.zero_grad()
    deep(x).sum().backward()
    assert all(torch.allclose(a, p.grad, rtol, atol) for a, p in zip(found, deep.parameters(), strict=True))
"""


@pytest.mark.slow
def test_compiled_is_the_same():
    """Compile in another process, because the type checks of the suite cannot be compiled."""
    found = subprocess.run([sys.executable, "-c", COMPILED], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
