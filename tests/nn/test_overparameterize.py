"""Factored layers against the plain ones they were made of, over layer types and what a training loop does to them."""

import copy
import io
import pickle
import socket
import subprocess
import sys

import pytest
import torch
import torch.multiprocessing as processes
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import ranklens as rl
from ranklens.nn.composed import Composed, by_chain

WIDTHS = {
    "matrix": None,
    "cp": None,
    "hierarchical": None,
    "tensor_train": 36,
    "tucker": 6,
    "expanded": 2,
    "stacked": 2,
}


pytestmark = pytest.mark.usefixtures("initial_values")


def small_net():
    layers = [nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 5)]
    return nn.Sequential(*layers).double()


def batch(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@st.composite
def layers(draw):
    """A layer of any supported type with strides, padding, dilation and groups, and an input for it."""
    kind = draw(st.sampled_from(["linear", "conv", "transposed"]))
    if kind == "linear":
        ins, outs = draw(st.integers(1, 6)), draw(st.integers(1, 6))
        return nn.Linear(ins, outs, bias=draw(st.booleans())), (draw(st.integers(1, 4)), ins)
    dims, groups = draw(st.integers(1, 3)), draw(st.integers(1, 2))
    ins, outs = groups * draw(st.integers(1, 3)), groups * draw(st.integers(1, 3))
    options = {
        "stride": draw(st.integers(1, 2)),
        "padding": draw(st.integers(0, 1)),
        "dilation": draw(st.integers(1, 2)),
        "groups": groups,
        "bias": draw(st.booleans()),
    }
    name = f"Conv{'Transpose' if kind == 'transposed' else ''}{dims}d"
    kernel = draw(st.integers(1, 3))
    return getattr(nn, name)(ins, outs, kernel, **options), (2, ins, *[5 + draw(st.integers(0, 2))] * dims)


CASES = (layers(), st.sampled_from(list(WIDTHS)), st.booleans(), st.integers(1, 4), st.integers(0, 100))


@given(*CASES)
@settings(max_examples=60)
def test_the_same_function_there_and_back(made, kind, keep, depth, seed):
    there_and_back(made, kind, keep, depth, seed)


@pytest.mark.slow
@given(*CASES)
@settings(max_examples=500)
def test_the_same_function_for_500_layers(made, kind, keep, depth, seed):
    there_and_back(made, kind, keep, depth, seed)


def there_and_back(made, kind, keep, depth, seed):
    """Factored at its weights it is the plain layer; collapsed it is the factored one, in both precisions."""
    layer, shape = made
    x = batch(*shape, seed=seed)
    init = "keep" if keep else 0.5
    layer, width = layer.double(), WIDTHS[kind]
    deep = rl.nn.overparameterize(layer, depth, kind=kind, init=init, width=width, seed=seed)
    assert isinstance(deep, Composed)
    expected = deep(x)
    if init == "keep":
        assert (expected - layer(x)).abs().max() <= 1e-12 * max(1.0, float(layer(x).detach().abs().max()))
    plain = rl.nn.collapse(deep)
    assert type(plain) is type(layer)
    assert (plain(x) - expected).abs().max() <= 1e-12 * max(1.0, float(expected.detach().abs().max()))
    single = rl.nn.collapse(deep.float())
    off = (single(x.float()) - deep(x.float())).abs().max()
    assert off <= 1e-5 * max(1.0, float(expected.detach().abs().max()))


def test_nothing_is_changed_in_the_argument():
    net = small_net()
    before = copy.deepcopy(net.state_dict())
    deep = rl.nn.overparameterize(net)
    held = copy.deepcopy(deep.state_dict())
    plain = rl.nn.collapse(deep)
    assert type(net[0]) is nn.Conv2d
    assert all(torch.equal(a, b) for a, b in zip(before.values(), net.state_dict().values(), strict=True))
    assert list(held) == list(deep.state_dict())
    assert list(plain.state_dict()) == list(net.state_dict())


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
    assert torch.allclose(gradient, literal, atol=1e-10)


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
            assert torch.allclose(layer(x), after)
        assert counted["n"] == 4  # gradients were switched off


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW, torch.optim.Adagrad])
@pytest.mark.parametrize("how", [{"fused": True}, {"foreach": True}, {"foreach": False}], ids=str)
def test_steps_of_every_optimizer_are_seen(kind, how):
    """Fused ones do not count versions; and a chain over few rows never frees a weight that was composed before."""
    layer = rl.nn.overparameterize(nn.Linear(16, 16)).double()
    few, many = batch(2, 16), batch(64, 16)
    optimizer = kind(layer.parameters(), lr=0.1, **how)
    for grad in (False, True):
        with torch.set_grad_enabled(grad):
            layer(many)  # keeps the weight
        layer(few).square().mean().backward()
        optimizer.step()
        with torch.set_grad_enabled(grad):
            one_by_one = torch.cat([layer(row[None]) for row in many])  # by the chain
            assert torch.allclose(layer(many), one_by_one, atol=1e-12)


def test_many_attentions_keep_their_own_weights_and_ties(tolerance):
    """Eight of them, so that no identity of an object that is gone is taken for another's."""
    many = nn.ModuleList(nn.MultiheadAttention(8, 2) for _ in range(8)).double()
    many[7].in_proj_weight = many[0].in_proj_weight
    deep = rl.nn.overparameterize(many)
    for plain, composed in zip(many, deep, strict=True):
        assert torch.allclose(plain.in_proj_weight, composed.in_proj_weight, atol=tolerance["rounding"])
    assert len({id(c) for layer in deep for c in layer.compositions}) == 7 * 3
    again = rl.nn.collapse(deep)
    assert again[7].in_proj_weight is again[0].in_proj_weight
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    encoder = nn.TransformerEncoder(layer, 6, enable_nested_tensor=False).double().eval()
    x = batch(2, 5, 8)
    assert torch.allclose(rl.nn.overparameterize(encoder)(x), encoder(x), atol=1e-12)


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


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"depth": 2},
        {"kind": "cp"},
        {"kind": "hierarchical"},
        {"kind": "tensor_train", "width": 9},
        {"kind": "tucker", "width": 4},
        {"kind": "expanded"},
    ],
    ids=str,
)
def test_weights_of_zero_are_kept_and_trained(how):
    layer = nn.Conv2d(3, 4, 3).double()
    nn.init.zeros_(layer.weight)
    deep, x, y = rl.nn.overparameterize(layer, **how), batch(6, 3, 5, 5), batch(6, 4, 3, 3, seed=1)
    assert float(deep.weight.detach().abs().max()) == 0
    optimizer = torch.optim.Adam(deep.parameters(), lr=0.01)
    for _ in range(30):
        optimizer.zero_grad()
        (deep(x) - y).square().mean().backward()
        optimizer.step()
    assert float(deep.weight.detach().norm()) > 0.1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", ["matrix", "cp", "hierarchical"])
def test_half_precision_is_kept_to_its_rounding(dtype, kind):
    layer = nn.Linear(8, 8).to(dtype)
    deep = rl.nn.overparameterize(layer, kind=kind)
    assert deep.weight.dtype == dtype
    assert float((deep.weight - layer.weight).detach().abs().max()) < 16 * torch.finfo(dtype).eps
    monitor = rl.nn.RankMonitor(deep, every=1, share=1.0)
    monitor.step()
    monitor.finish()
    assert monitor.record().sizes["part"] == 1


def test_weights_that_cannot_be_factored_are_named():
    broken = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    with torch.no_grad():
        broken[1].weight[0, 0] = torch.nan
    with pytest.raises(ValueError, match="the weight of layer '1' is not finite"):
        rl.nn.overparameterize(broken)
    with pytest.raises(ValueError, match="the weight of layer '1' is not finite"):
        rl.nn.compress(broken, rank=1)
    with torch.device("meta"):
        empty = nn.Linear(3, 3)
    for call in (rl.nn.overparameterize, lambda model: rl.nn.compress(model, rank=1)):
        with pytest.raises(ValueError, match="on the meta device"):
            call(empty)
    tied = nn.ModuleDict({"embed": nn.Embedding(5, 3), "head": nn.Linear(3, 5)})
    tied["head"].weight = tied["embed"].weight
    with pytest.raises(ValueError, match="layers 'head' and 'embed' share their weight"):
        rl.nn.overparameterize(tied, where=["head"])
    deep = rl.nn.overparameterize(tied)
    assert deep["head"].composition is deep["embed"].composition


def test_training_moves_the_function():
    """Steps of an optimizer are seen, and the loss falls as it does for the plain net."""
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


def test_a_small_start_is_small():
    deep = rl.nn.overparameterize(nn.Linear(40, 30), init=1e-3)
    plain = nn.Linear(40, 30)
    ratio = float(deep.weight.detach().std() / plain.weight.detach().std())
    assert 0.5e-3 < ratio < 2e-3


def test_tied_weights_stay_tied():
    net = nn.ModuleDict({"a": nn.Embedding(7, 4), "b": nn.Linear(4, 7)})
    net["b"].weight = net["a"].weight
    deep = rl.nn.overparameterize(net)
    assert deep["a"].composition is deep["b"].composition
    plain = rl.nn.collapse(deep)
    assert plain["a"].weight is plain["b"].weight


def test_attention():
    attention = nn.MultiheadAttention(8, 2, batch_first=True).double()
    x = batch(2, 5, 8)
    deep = rl.nn.overparameterize(attention)
    wanted = attention(x, x, x)[0]
    assert torch.allclose(deep(x, x, x)[0], wanted, atol=1e-12)
    again = rl.nn.collapse(deep)
    assert type(again) is nn.MultiheadAttention
    assert torch.allclose(again(x, x, x)[0], wanted, atol=1e-12)
    deep(x, x, x)[0].sum().backward()
    assert all(p.grad is not None for p in deep.parameters())


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
    assert torch.allclose(other(x), wanted, atol=1e-12)


def test_moving_is_noticed():
    deep, x = rl.nn.overparameterize(small_net()).eval(), batch(2, 3, 4, 4)
    wanted = deep(x).detach()
    assert deep.float()(x.float()).dtype == torch.float32
    assert torch.allclose(deep.double()(x), wanted, atol=1e-5)


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
    assert torch.allclose(rough.float(), wanted, atol=0.1)
    assert torch.allclose(deep(x), wanted, atol=1e-6)  # what autocast kept is not what comes after
    with torch.inference_mode():
        assert torch.allclose(deep(x), wanted, atol=1e-6)
    deep(x).sum().backward()  # what inference kept has no graph
    expected = [p.grad.clone() for p in deep.parameters()]
    deep.zero_grad()
    torch.utils.checkpoint.checkpoint(deep, x, use_reentrant=False).sum().backward()
    for found, gradient in zip((p.grad for p in deep.parameters()), expected, strict=True):
        assert torch.allclose(found, gradient, atol=1e-6)


def test_few_rows_go_through_the_factors():
    """The same outputs either way; by count, few rows take the chain and many the product."""
    deep = rl.nn.overparameterize(nn.Linear(32, 32).double(), depth=3)
    chain = deep.composition.chain()
    assert by_chain(1, chain)
    assert not by_chain(10_000, chain)
    few, many = batch(3, 32), batch(500, 32)
    assert torch.allclose(deep(many)[:3], deep(many[:3]), atol=1e-12)
    assert torch.allclose(deep(few), nn.functional.linear(few, deep.weight, deep.bias), atol=1e-12)
    assert torch.allclose(deep(few.reshape(3, 1, 32)).squeeze(1), deep(few), atol=1e-12)


def test_flags_are_kept():
    net = small_net().eval()
    net[0].weight.requires_grad_(False)
    deep = rl.nn.overparameterize(net)
    assert not any(p.requires_grad for p in deep[0].composition.parameters())
    plain = rl.nn.collapse(deep)
    assert not plain.training
    assert not plain[0].weight.requires_grad
    assert plain[4].weight.requires_grad
    assert [name for name, _ in plain.named_parameters()] == [name for name, _ in net.named_parameters()]


def test_collapsed_models_are_exported():
    deep, x = rl.nn.overparameterize(small_net()).eval(), batch(2, 3, 4, 4)
    plain = rl.nn.collapse(deep)
    exported = torch.export.export(plain, (x,))
    assert torch.allclose(exported.module()(x), plain(x))


@pytest.mark.parametrize(
    ("where", "factored"),
    [(None, {"0", "4"}), (["4"], {"4"}), (["*"], {"0", "4"}), (lambda name, m: isinstance(m, nn.Conv2d), {"0"})],
)
def test_where(where, factored):
    deep = rl.nn.overparameterize(small_net(), where=where)
    assert {name for name, m in deep.named_modules() if isinstance(m, Composed)} == factored


def test_tensorized_linear():
    layer = nn.Linear(12, 6).double()
    deep = rl.nn.overparameterize(layer, kind="cp", tensorize=((2, 3), (3, 4)))
    assert deep.composition.network.shape == (2, 3, 3, 4)
    assert torch.allclose(deep.weight, layer.weight, atol=1e-13)


@pytest.mark.parametrize(
    ("make", "options", "said"),
    [
        (lambda: nn.Linear(3, 3), {"kind": "svd"}, "kind is 'svd'"),
        (lambda: nn.Linear(3, 3), {"init": 0.0}, "init is 0.0"),
        (nn.ReLU, {}, "nothing was factored"),
        (lambda: nn.Linear(3, 3), {"where": ["other"]}, "nothing was factored"),
        (lambda: nn.Embedding(3, 3, sparse=True), {}, "sparse gradients"),
        (lambda: nn.Linear(3, 3), {"width": 1}, "less than the rank"),
        (lambda: nn.Linear(3, 4), {"kind": "cp", "width": 2}, "a width of 2, and this weight needs 3"),
        (lambda: nn.Linear(3, 4), {"kind": "tucker", "width": 2}, "a width of 2, and this weight needs 3"),
        (lambda: nn.Conv2d(2, 2, 5), {"kind": "stacked"}, "a chain of 2 kernels cannot be set to a given kernel"),
        (lambda: nn.Conv2d(2, 2, 6), {"kind": "stacked", "init": 1.0}, "sizes must be odd"),
        (lambda: nn.Linear(3, 4), {"kind": "expanded", "width": -1}, "width is -1"),
        (lambda: nn.Linear(3, 4), {"kind": "tensor_train", "init": 0.1}, "needs width="),
        (lambda: nn.Linear(3, 4), {"kind": "cp", "tensorize": ((2, 3), (3,))}, "does not multiply up"),
    ],
)
def test_what_cannot_be_factored(make, options, said):
    with pytest.raises(ValueError, match=said):
        rl.nn.overparameterize(make(), **options)


@pytest.mark.parametrize("sizes", [(3,), (5,), (3, 3), (5, 5), (7, 3), (3, 3, 3)])
@pytest.mark.parametrize("kind", ["expanded", "stacked"])
def test_expanded_kernels_are_their_layers_one_by_one(kind, sizes):
    """Padding belongs before the first kernel, dilation and stride: to all of them, and to the last."""
    dims = len(sizes)
    plain = getattr(nn, f"Conv{dims}d")(3, 4, sizes, padding=2, bias=False).double()
    deep = rl.nn.overparameterize(plain, kind=kind, init=0.7)
    convolve = getattr(nn.functional, f"conv{dims}d")
    x = batch(2, 3, *[7] * dims)
    expected = nn.functional.pad(x, [2, 2] * dims)
    for kernel in deep.composition.network.kernels:
        expected = convolve(expected, kernel)
    assert torch.allclose(deep(x), expected, atol=1e-12)
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
    assert torch.allclose(deep(x), nn.functional.linear(x, deep.weight, deep.bias))


def test_kernels_that_do_not_follow_on_each_other():
    with pytest.raises(ValueError, match=r"a kernel of shape \(2, 5, 3\) cannot follow one of shape \(4, 3, 3\)"):
        rl.nn.KernelChain([(4, 3, 3), (2, 5, 3)])


COMPILED = """
import torch, ranklens as rl
from torch import nn
torch.manual_seed(0)
plain = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 5)).double()
x = torch.randn(2, 3, 4, 4).double()
for kind in ("matrix", "cp", "expanded"):
    deep = rl.nn.overparameterize(plain, depth=2, kind=kind)
    compiled = torch.compile(deep, backend="aot_eager")
    assert torch.allclose(compiled(x), plain(x))
    compiled(x).sum().backward()
    found = [p.grad.clone() for p in deep.parameters()]
    deep.zero_grad()
    deep(x).sum().backward()
    assert all(torch.allclose(a, p.grad) for a, p in zip(found, deep.parameters(), strict=True))
"""


def test_compiled_is_the_same():
    """In a process of its own: shape types, which only tests enforce, cannot be compiled."""
    found = subprocess.run([sys.executable, "-c", COMPILED], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_onnx_is_the_same(tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    deep, x = rl.nn.overparameterize(small_net().float().eval(), depth=2), batch(2, 3, 4, 4).float()
    plain = rl.nn.collapse(deep)
    torch.onnx.export(plain, (x,), tmp_path / "plain.onnx", dynamo=True, verbose=False)
    session = onnxruntime.InferenceSession(tmp_path / "plain.onnx", providers=["CPUExecutionProvider"])
    [found] = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    assert torch.allclose(torch.from_numpy(found), plain(x), atol=1e-5)


def _train(rank, port, results):
    """A process of two: the gradient of half a batch each, averaged."""
    torch.distributed.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    torch.manual_seed(0)
    deep = rl.nn.overparameterize(nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2)).double(), depth=3)
    parallel = nn.parallel.DistributedDataParallel(deep)
    parallel(batch(6, 4)[3 * rank : 3 * rank + 3]).square().mean().backward()
    results[rank] = [p.grad.tolist() for p in deep.parameters()]
    torch.distributed.destroy_process_group()


def test_two_processes_see_the_gradient_of_the_whole_batch():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = processes.get_context("spawn")
    with context.Manager() as manager:
        results = manager.dict()
        processes.spawn(_train, (port, results), nprocs=2)
        found = [[torch.tensor(g).double() for g in results[rank]] for rank in (0, 1)]
    torch.manual_seed(0)
    deep = rl.nn.overparameterize(nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2)).double(), depth=3)
    deep(batch(6, 4)).square().mean().backward()
    for one, other, parameter in zip(*found, deep.parameters(), strict=True):
        assert torch.allclose(one, other)
        assert torch.allclose(one, parameter.grad)
