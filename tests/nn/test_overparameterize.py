"""Factored layers against the plain ones they were made of, over layer types and kinds of factors."""

import copy
import pickle
import socket

import pytest
import torch
import torch.multiprocessing as processes
from hypothesis import given, settings
from hypothesis import strategies as st
from layer_cases import SAME, SAME_SINGLE, batch, off, small_net
from torch import nn

import ranklens as rl
from ranklens.nn.composed import Composed

pytestmark = pytest.mark.usefixtures("initial_values")


WIDTHS = {
    "matrix": None,
    "cp": None,
    "hierarchical": None,
    "tensor_train": 36,
    "tucker": 6,
    "expanded": 2,
    "stacked": 2,
}


@st.composite
def layers(draw):
    """Draw a layer of any supported type with strides, padding, dilation and groups, and the shape of an input."""
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
    """A factored layer that keeps its weights computes the plain layer's output, and collapsing changes no output."""
    layer, shape = made
    x = batch(*shape, seed=seed)
    init = "keep" if keep else 0.5
    layer, width = layer.double(), WIDTHS[kind]
    deep = rl.nn.overparameterize(layer, depth, kind=kind, init=init, width=width, seed=seed)
    assert isinstance(deep, Composed)
    expected = deep(x)
    if init == "keep":
        assert (expected - layer(x)).abs().max() <= SAME * max(1.0, float(layer(x).detach().abs().max()))
    plain = rl.nn.collapse(deep)
    assert type(plain) is type(layer)
    assert (plain(x) - expected).abs().max() <= SAME * max(1.0, float(expected.detach().abs().max()))
    single = rl.nn.collapse(deep.float())
    error = (single(x.float()) - deep(x.float())).abs().max()
    assert error <= SAME_SINGLE * max(1.0, float(expected.detach().abs().max()))


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


def test_many_attentions_keep_their_own_weights_and_ties(tolerance):
    """Use eight layers, so that the memory of a deleted Parameter is likely to be used for another one."""
    many = nn.ModuleList(nn.MultiheadAttention(8, 2) for _ in range(8)).double()
    many[7].in_proj_weight = many[0].in_proj_weight
    deep = rl.nn.overparameterize(many)
    for plain, composed in zip(many, deep, strict=True):
        assert off(plain.in_proj_weight, composed.in_proj_weight) <= SAME
    assert len({id(c) for layer in deep for c in layer.compositions}) == 7 * 3
    again = rl.nn.collapse(deep)
    assert again[7].in_proj_weight is again[0].in_proj_weight
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    encoder = nn.TransformerEncoder(layer, 6, enable_nested_tensor=False).double().eval()
    x = batch(2, 5, 8)
    assert off(rl.nn.overparameterize(encoder)(x), encoder(x)) <= SAME


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
    assert off(deep(x, x, x)[0], wanted) <= SAME
    again = rl.nn.collapse(deep)
    assert type(again) is nn.MultiheadAttention
    assert off(again(x, x, x)[0], wanted) <= SAME
    deep(x, x, x)[0].sum().backward()
    assert all(p.grad is not None for p in deep.parameters())


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
    assert off(exported.module()(x), plain(x)) <= SAME


@pytest.mark.parametrize(
    ("where", "factored"),
    [
        (None, {"0", "4"}),
        (["4"], {"4"}),
        (["*"], {"0", "4"}),
        ("4", {"4"}),
        ("*", {"0", "4"}),
        (lambda name, m: isinstance(m, nn.Conv2d), {"0"}),
    ],
)
def test_where(where, factored):
    deep = rl.nn.overparameterize(small_net(), where=where)
    assert {name for name, m in deep.named_modules() if isinstance(m, Composed)} == factored


def test_a_bare_string_is_one_pattern():
    """Read letter by letter, "10" would name layers 1 and 0; as a pattern it names layer 10 alone."""
    net = nn.Sequential(*[nn.Linear(3, 3) for _ in range(11)])
    deep = rl.nn.overparameterize(net, where="10")
    assert [name for name, m in deep.named_modules() if isinstance(m, Composed)] == ["10"]
    with pytest.raises(ValueError, match="`where` is '12'"):
        rl.nn.overparameterize(net, where="12")


def test_tensorized_linear():
    layer = nn.Linear(12, 6).double()
    deep = rl.nn.overparameterize(layer, kind="cp", tensorize=((2, 3), (3, 4)))
    assert deep.composition.network.shape == (2, 3, 3, 4)
    assert off(deep.weight, layer.weight) <= SAME


@pytest.mark.parametrize(
    ("make", "options", "said"),
    [
        (lambda: nn.Linear(3, 3), {"kind": "svd"}, "kind is 'svd'"),
        (lambda: nn.Linear(3, 3), {"init": 0.0}, "init is 0.0"),
        (nn.ReLU, {}, "nothing was factored"),
        (lambda: nn.Linear(3, 3), {"where": ["other"]}, "nothing was factored"),
        (lambda: nn.Sequential(nn.Sequential(nn.Linear(3, 3))), {"where": ["0"]}, "names are '0.0'"),
        (lambda: rl.nn.overparameterize(nn.Linear(3, 3)), {}, "call rl.nn.collapse first"),
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


class Conv1D(nn.Module):
    """A Linear layer with a transposed weight, as in transformers."""

    def __init__(self, out, into):
        super().__init__()
        self.nf, self.weight, self.bias = out, nn.Parameter(torch.randn(into, out)), nn.Parameter(torch.randn(out))

    def forward(self, x):
        return x @ self.weight + self.bias


@pytest.mark.parametrize("rows", [1, 200])  # by the factors one after the other, and by their product
@pytest.mark.parametrize("kind", ["matrix", "cp", "expanded"])
def test_transposed_layers_of_transformers(kind, rows):
    model, x = nn.Sequential(Conv1D(6, 4), nn.Tanh(), Conv1D(3, 6)).double(), batch(rows, 4)
    deep = rl.nn.overparameterize(model, kind=kind)
    assert off(deep(x), model(x)) <= 100 * SAME
    assert deep[0].weight.shape == (4, 6)
    again = pickle.loads(pickle.dumps(deep))
    assert torch.equal(again(x), deep(x))
    plain = rl.nn.collapse(again)
    assert type(plain[0]) is Conv1D
    assert plain[0].weight.is_contiguous()
    assert off(plain(x), model(x)) <= 100 * SAME


class Language(nn.Module):
    """A language model whose embedding is resized as in transformers: in place, and tied again by name."""

    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Embedding(5, 4), nn.Linear(4, 5, bias=False)
        self.head.weight = self.embed.weight

    def get_input_embeddings(self):
        return self.embed

    def get_output_embeddings(self):
        return self.head

    def resize_token_embeddings(self, count):
        self.embed.weight.data = torch.cat([self.embed.weight.data, torch.zeros(count - 5, 4)])
        self.head.weight = self.get_parameter("embed.weight")
        return self.embed

    def forward(self, x):
        return self.head(self.embed(x))


def test_embeddings_that_are_resized_become_plain():
    model, x = Language(), torch.arange(5)
    deep = copy.deepcopy(rl.nn.overparameterize(model))
    assert deep.resize_token_embeddings(7) is deep.embed
    assert type(deep.embed) is nn.Embedding
    assert deep.head.weight is deep.embed.weight
    assert off(deep(x)[:, :5], model(x)) <= SAME_SINGLE
    plain = rl.nn.collapse(rl.nn.overparameterize(model))
    assert plain.resize_token_embeddings(6) is plain.embed
    assert len(plain(x)[0]) == 6


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_onnx_is_the_same(tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    deep, x = rl.nn.overparameterize(small_net().float().eval(), depth=2), batch(2, 3, 4, 4).float()
    plain = rl.nn.collapse(deep)
    torch.onnx.export(plain, (x,), tmp_path / "plain.onnx", dynamo=True, verbose=False)
    session = onnxruntime.InferenceSession(tmp_path / "plain.onnx", providers=["CPUExecutionProvider"])
    [found] = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    assert off(torch.from_numpy(found), plain(x)) <= SAME_SINGLE


def _train(rank, port, results):
    """Compute, in one of two processes, the gradient of half a batch; the gradients are then averaged."""
    torch.distributed.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    torch.manual_seed(0)
    deep = rl.nn.overparameterize(nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2)).double(), depth=3)
    parallel = nn.parallel.DistributedDataParallel(deep)
    parallel(batch(6, 4)[3 * rank : 3 * rank + 3]).square().mean().backward()
    results[rank] = [p.grad.tolist() for p in deep.parameters()]
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_see_the_gradient_of_the_whole_batch():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = processes.get_context("spawn")
    with context.Manager() as manager:
        results = manager.dict()
        processes.spawn(_train, (port, results), nprocs=2)
        found = [[torch.tensor(g, dtype=torch.float64) for g in results[rank]] for rank in (0, 1)]
    torch.manual_seed(0)
    deep = rl.nn.overparameterize(nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2)).double(), depth=3)
    deep(batch(6, 4)).square().mean().backward()
    for one, other, parameter in zip(*found, deep.parameters(), strict=True):
        assert off(one, other) <= SAME
        assert off(one, parameter.grad) <= SAME
