"""The penalty is its definition, derivatives too; safe where gradients vanish; cheaper forms change little."""

import copy
import math
import subprocess
import sys
import textwrap

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from layer_cases import SAME_SINGLE
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

import ranklens as rl
from ranklens import seeds

pytestmark = pytest.mark.usefixtures("initial_values")
LEFT, RIGHT = (0, 0, 4, 2), (0, 2, 4, 2)
# Derivatives of the penalty are second derivatives of the network, which differences give to about this.
SECOND_DERIVATIVES = 1e-4
# Standard error of a mean over 2000 samples of a cosine, about five times.
SAMPLED = 0.02
# Gradients 1e4 times smaller, or of a batch of another size, are rounded differently before they are divided.
ROUNDED_APART = 1e-9
# A forward pass in bfloat16, with 8 significant bits, changes cosines of gradients by about this.
BFLOAT16 = 0.05
ACTIVATIONS = (nn.Tanh, nn.Softplus, nn.SiLU, nn.GELU)


def images(count, *shape, seed=0):
    return torch.randn(count, *shape, generator=seeds.stream(seed, "images of a test"), dtype=torch.float64)


def convolutional(channels, classes, activation, norm=False):
    layers = [nn.Conv2d(2, channels, 3, padding=1)]
    if norm:
        layers.append(nn.BatchNorm2d(channels))
    layers += [activation(), nn.Conv2d(channels, 4, 3, stride=2), activation(), nn.Flatten(), nn.LazyLinear(classes)]
    net = nn.Sequential(*layers).double()
    net(images(2, 2, 5, 6))
    return net


def oracle(model, x, y, first, second, step=1e-5):
    """By the definition, with central differences for gradients, one pixel at a time."""

    def score(image, k):
        out = model(image[None])[0]
        return float(out[0] if len(out) == 1 else out[y[k]])

    def gradient(image, k):
        top, left, height, width = first
        found = []
        for c in range(image.shape[0]):
            for i in range(top, top + height):
                for j in range(left, left + width):
                    up, down = image.clone(), image.clone()
                    up[c, i, j] += step
                    down[c, i, j] -= step
                    found.append((score(up, k) - score(down, k)) / (2 * step))
        return found

    top, left, height, width = second
    cosines = []
    with torch.no_grad():
        for k in range(len(x)):
            other = x[k].clone()
            patch = x[(k + 1) % len(x)][:, top : top + height, left : left + width]
            other[:, top : top + height, left : left + width] = patch
            a, b = gradient(x[k], k), gradient(other, k)
            dot = sum(p * q for p, q in zip(a, b, strict=True))
            cosines.append(abs(dot) / math.sqrt(sum(p * p for p in a) * sum(q * q for q in b)))
    return sum(cosines) / len(cosines)


@settings(max_examples=30)
@given(st.integers(1, 5), st.sampled_from([1, 3]), st.sampled_from(ACTIVATIONS), st.integers(0, 10**6))
def test_it_is_its_definition(tolerance, channels, classes, activation, seed):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = convolutional(channels, classes, activation)
    x, y = images(3, 2, 5, 6, seed=seed), torch.arange(3) % classes
    pair = rl.nn.PatchPairs((1 + seed % 2, 1 + seed % 3))(x.shape[1:], torch.Generator().manual_seed(seed))
    found = rl.nn.locality_penalty(model, x, y, patches=pair)
    assert float(found.detach()) == pytest.approx(oracle(model, x, y, *pair), abs=tolerance["difference"])


@settings(max_examples=8)
@given(st.sampled_from([1, 3]), st.sampled_from(ACTIVATIONS[:3]), st.booleans())
def test_derivatives_in_the_parameters(tolerance, classes, activation, norm):
    with torch.random.fork_rng():
        torch.manual_seed(classes)
        model = convolutional(2, classes, activation, norm)
    x, y = images(3, 2, 5, 6), torch.arange(3) % classes
    names, values = zip(*model.named_parameters(), strict=True)

    def penalty(*parameters):
        def f(inputs):
            return torch.func.functional_call(model, dict(zip(names, parameters, strict=True)), (inputs,))

        return rl.nn.locality_penalty(f, x, y, patches=((0, 0, 2, 2), (3, 3, 2, 2)))

    inputs = tuple(v.detach().requires_grad_() for v in values)
    assert torch.autograd.gradcheck(penalty, inputs, atol=tolerance["difference"], rtol=SECOND_DERIVATIVES)


def test_products_and_sums_have_penalty_one(tolerance):
    x = images(7, 2, 4, 4)

    def product(x):
        return x[..., :2].sin().sum((1, 2, 3)) * (x[..., 2:].exp().sum((1, 2, 3)) - 3)

    def total(x):
        return x[..., :2].sin().sum((1, 2, 3)) + x[..., 2:].exp().sum((1, 2, 3))

    for f in (product, total):
        found = rl.nn.locality_penalty(f, x, patches=(LEFT, RIGHT))
        assert float(found.detach()) == pytest.approx(1, rel=tolerance["rounding"])


@pytest.mark.parametrize("rank", [1, 2, 4, 8])
def test_bilinear_forms_have_the_expected_penalty(rank):
    W, V = (torch.linalg.qr(images(8, rank, seed=s)).Q for s in (1, 2))
    x = images(2000, 16, seed=3)
    found = rl.nn.locality_penalty(
        lambda x: ((x[:, :8] @ W) * (x[:, 8:] @ V)).sum(dim=1),
        x,
        patches=(torch.arange(16) < 8, torch.arange(16) >= 8),
    )
    expected = math.gamma(rank / 2) / (math.sqrt(math.pi) * math.gamma((rank + 1) / 2))
    assert float(found.detach()) == pytest.approx(expected, abs=SAMPLED)


def test_scale_does_not_matter():
    model, x = convolutional(3, 1, nn.Tanh), images(4, 2, 5, 6)
    one = rl.nn.locality_penalty(model, x, patches=((0, 0, 2, 2), (3, 3, 2, 2)))
    tiny = rl.nn.locality_penalty(lambda x: 1e-4 * model(x), x, patches=((0, 0, 2, 2), (3, 3, 2, 2)))
    assert float(tiny.detach()) == pytest.approx(float(one.detach()), rel=ROUNDED_APART)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_nothing_is_nan_where_gradients_vanish(dtype):
    dead = nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 1)).to(dtype)
    with torch.no_grad():
        dead[0].weight.zero_()
        dead[0].bias.fill_(-1)
    alive = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 1)).to(dtype)
    constant = nn.Sequential(nn.Flatten(), nn.Linear(72, 1)).to(dtype)
    with torch.no_grad():
        constant[1].weight.zero_()
    for model in (dead, alive, constant):
        for x in (images(4, 2, 6, 6).to(dtype), torch.ones(4, 2, 6, 6, dtype=dtype)):
            found = rl.nn.locality_penalty(model, x, patches=((0, 0, 2, 2), (4, 4, 2, 2)))
            found.backward()
            assert bool(torch.isfinite(found))
            assert all(p.grad is None or bool(torch.isfinite(p.grad).all()) for p in model.parameters())
    assert float(rl.nn.locality_penalty(dead, x, patches=((0, 0, 2, 2), (4, 4, 2, 2))).detach()) == 0.0


@pytest.mark.parametrize("classes", [1, 3])
@pytest.mark.parametrize("norm", [False, True])
def test_a_shared_output_gives_the_same_penalty_and_derivatives(classes, norm, tolerance):
    model, x, y = convolutional(3, classes, nn.Tanh, norm), images(6, 2, 5, 6), torch.arange(6) % classes
    own, shared = (torch.zeros(0),) * 2
    pair = ((0, 0, 2, 2), (3, 3, 2, 2))
    own = torch.autograd.grad(rl.nn.locality_penalty(model, x, y, patches=pair), [*model.parameters()][:1])[0]
    x = x.requires_grad_()
    output = model(x)
    found = rl.nn.locality_penalty(model, x, y, patches=pair, output=output)
    shared = torch.autograd.grad(found, [*model.parameters()][:1])[0]
    assert torch.allclose(own, shared, rtol=tolerance["rounding"])
    if not norm:
        joined = rl.nn.locality_penalty(model, x, y, patches=pair, concatenated=True)
        assert float(joined.detach()) == pytest.approx(float(found.detach()), rel=tolerance["rounding"])
        assert torch.allclose(torch.autograd.grad(joined, [*model.parameters()][:1])[0], own, rtol=ROUNDED_APART)


def test_running_statistics_and_modes_are_left_alone():
    model, x = convolutional(3, 1, nn.ReLU, norm=True), images(6, 2, 5, 6)
    before = copy.deepcopy(model.state_dict())
    rl.nn.locality_penalty(model, x, patches=((0, 0, 2, 2), (3, 3, 2, 2))).backward()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    model(x)
    assert not torch.equal(model[1].running_mean, before["1.running_mean"])  # it still learns them
    model.eval()
    assert not torch.isnan(rl.nn.locality_penalty(model, x, patches=((0, 0, 2, 2), (3, 3, 2, 2))))
    assert not model.training


def test_without_gradients_it_is_a_number():
    model, x = convolutional(3, 1, nn.Tanh), images(6, 2, 5, 6)
    pair = ((0, 0, 2, 2), (3, 3, 2, 2))
    with torch.no_grad():
        found = rl.nn.locality_penalty(model, x, patches=pair)
    assert not found.requires_grad
    assert float(found) == float(rl.nn.locality_penalty(model, x, patches=pair).detach())


def test_on_every_kth_step_the_mean_is_the_same():
    model, x = convolutional(3, 1, nn.Tanh), images(6, 2, 5, 6)
    pair = ((0, 0, 2, 2), (3, 3, 2, 2))
    each = float(rl.nn.locality_penalty(model, x, patches=pair).detach())
    lazy = rl.nn.LocalityPenalty(pair, weight=0.5, every=4)
    terms, due = [], []
    for _ in range(8):
        due.append(lazy.due)
        terms.append(float(lazy(model, x).detach()))
    assert due == [True, False, False, False] * 2
    assert [term > 0 for term in terms] == due
    assert sum(terms) / 8 == pytest.approx(0.5 * each)
    none = rl.nn.LocalityPenalty(pair, weight=0.0)
    assert not none.due
    assert float(none(model, x)) == 0.0


@pytest.mark.parametrize(
    ("batch", "fraction", "used"), [(8, 0.5, 4), (4, 0.7, 3), (4, 0.1, 2), (2, 0.01, 2), (3, 1.0, 3), (5, 0.45, 2)]
)
def test_part_of_the_batch_is_its_first_samples(batch, fraction, used):
    """The nearest whole number of samples, and two at least, for the patch of another sample."""
    model, x, y = convolutional(3, 3, nn.Tanh), images(batch, 2, 5, 6), torch.arange(batch) % 3
    pair = ((0, 0, 2, 2), (3, 3, 2, 2))
    part = rl.nn.locality_penalty(model, x, y, patches=pair, fraction=fraction)
    assert float(part.detach()) == float(rl.nn.locality_penalty(model, x[:used], y[:used], patches=pair).detach())
    lazy = rl.nn.LocalityPenalty(pair, every=1, fraction=fraction)(model, x, y)
    assert float(lazy.detach()) == float(part.detach())


def test_it_goes_on_where_it_stood():
    model, x = convolutional(3, 1, nn.Tanh), images(6, 2, 5, 6)

    def made():
        return rl.nn.LocalityPenalty(rl.nn.PatchPairs(1), every=2, seed=3)

    whole, first, second = made(), made(), made()
    terms = [float(whole(model, x).detach()) for _ in range(8)]
    begun = [float(first(model, x).detach()) for _ in range(3)]
    second.load_state_dict(first.state_dict())
    assert begun + [float(second(model, x).detach()) for _ in range(5)] == terms
    assert len(set(terms)) > 3  # pairs differ


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_gradients_of_half_precision_are_compared_in_single_precision(dtype, tolerance):
    """The exact penalties 1 and 0, at gradients whose squares half precision cannot hold, and at gradients of zero."""
    x = torch.tensor([[1, 1, 1, 1, 2, 0], [1, 1, 1, 1, 3, 1]], dtype=dtype) / 2048  # exact; 4 and 2 pixels
    patches = (torch.arange(6) < 4, torch.arange(6) >= 4)

    def product(x):  # its gradient in the first patch has four equal entries of 1e-3 or less
        return x[:, :4].sum(dim=1) * x[:, 4:].sum(dim=1)

    def exchanged(x):  # its gradient in the first patch is (a, b, 0, 0) for the second patch (a, b)
        return x[:, 0] * x[:, 4] + x[:, 1] * x[:, 5]

    found = rl.nn.locality_penalty(product, x, patches=patches)
    assert found.dtype == torch.float32
    assert float(found.detach()) == pytest.approx(1, rel=tolerance["float32"])
    cosine = 2 * 3 / (2 * math.sqrt(3**2 + 1**2))
    found = rl.nn.locality_penalty(exchanged, x, patches=patches)
    assert float(found.detach()) == pytest.approx(cosine, rel=tolerance["float32"])
    assert float(rl.nn.locality_penalty(lambda x: 0 * product(x), x, patches=patches).detach()) == 0.0


def test_half_precision():
    model, x = convolutional(8, 1, nn.Tanh).float(), images(8, 2, 5, 6).float()
    pair = ((0, 0, 2, 2), (3, 3, 2, 2))
    whole = rl.nn.locality_penalty(model, x, patches=pair)
    x = x.requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = rl.nn.locality_penalty(model, x, patches=pair, output=model(x))
    half.backward()
    assert float(half.detach()) == pytest.approx(float(whole.detach()), abs=BFLOAT16)
    assert all(bool(torch.isfinite(p.grad).all()) for p in model.parameters() if p.grad is not None)


def test_attention_is_differentiated_twice():
    class Attending(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.head = nn.Linear(8, 8), nn.Linear(8, 1)
            self.attend = nn.MultiheadAttention(8, 2, batch_first=True)

        def forward(self, x):
            tokens = self.embed(x)
            return self.head(self.attend(tokens, tokens, tokens, need_weights=False)[0].mean(dim=1))

    model, x = Attending(), images(4, 6, 8).float()
    here = torch.zeros(6, 8, dtype=torch.bool)
    here[:2] = True
    found = rl.nn.locality_penalty(model, x, patches=(here, ~here))
    found.backward()
    assert 0 < float(found.detach()) < 1
    gradient = model.embed.weight.grad.clone()
    assert float(gradient.abs().sum()) > 0
    model.zero_grad()
    x.requires_grad_()
    shared = rl.nn.locality_penalty(model, x, patches=(here, ~here), output=model(x))  # by attention in one kernel
    shared.backward()
    assert float(shared.detach()) == float(found.detach())
    assert torch.equal(model.embed.weight.grad, gradient)
    with sdpa_kernel(SDPBackend.MATH):
        output = model(x)
    plain = rl.nn.locality_penalty(model, x, patches=(here, ~here), output=output)
    assert float(plain.detach()) == pytest.approx(float(found.detach()), rel=SAME_SINGLE)


def test_outputs_may_be_objects_with_logits_and_modules_may_hold_modules():
    """As models of Hugging Face do; and what is inside a model called `module` is not the model."""

    class Output:
        def __init__(self, logits):
            self.logits = logits

    class Doubling(nn.Module):
        def __init__(self, module):
            super().__init__()
            self.module, self.last = module, nn.Linear(3, 3).double()

        def forward(self, x):
            return Output(self.last(self.module(x)))

    inner, x, y = convolutional(2, 3, nn.Tanh), images(4, 2, 5, 6), torch.arange(4) % 3
    outer, pair = Doubling(inner), ((0, 0, 2, 2), (3, 3, 2, 2))
    found = rl.nn.locality_penalty(outer, x, y, patches=pair)
    plain = rl.nn.locality_penalty(lambda x: outer(x).logits, x, y, patches=pair)
    assert float(found.detach()) == float(plain.detach())
    assert float(found.detach()) != float(rl.nn.locality_penalty(inner, x, y, patches=pair).detach())


def test_an_output_that_does_not_come_from_x_is_refused():
    model, x, pair = convolutional(2, 1, nn.Tanh), images(4, 2, 5, 6), ((0, 0, 2, 2), (3, 3, 2, 2))
    early = model(x)
    for output in (early, model(x.detach()), model(images(4, 2, 5, 6, seed=1))):
        with pytest.raises(ValueError, match="output does not come from x"):
            rl.nn.locality_penalty(model, x.requires_grad_(), patches=pair, output=output)


@pytest.mark.parametrize("share", [False, True])
def test_dropout_is_not_mistaken_for_dependence(share, tolerance):
    """A linear network does not change its gradient, whatever dropout does to it."""
    model = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(60, 1)).double()
    x = images(6, 2, 5, 6).requires_grad_()
    output = model(x) if share else None
    state = torch.get_rng_state()
    found = rl.nn.locality_penalty(model, x, patches=((0, 0, 2, 2), (3, 3, 2, 2)), output=output)
    assert float(found.detach()) == pytest.approx(1, rel=tolerance["rounding"])
    assert torch.equal(state, torch.get_rng_state())
    assert model[1].training


def test_evaluation_costs_nothing_and_counts_no_step():
    model, x, pair = convolutional(2, 1, nn.Tanh), images(4, 2, 5, 6), ((0, 0, 2, 2), (3, 3, 2, 2))
    penalty = rl.nn.LocalityPenalty(pair, every=2)
    with torch.no_grad():
        output = model(x.requires_grad_(penalty.due))
        assert float(penalty(model, x, output=output)) == 0
    assert penalty.steps == 0
    assert float(penalty(model, x).detach()) > 0
    x = images(4, 2, 5, 6).requires_grad_()
    output = model(x)
    with torch.no_grad():  # an output that was shared is not used up
        rl.nn.locality_penalty(model, x, patches=pair, output=output)
    output.sum().backward()


def test_instance_norm_forgets_too():
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.InstanceNorm2d(3, track_running_stats=True), nn.Tanh(), nn.Flatten())
    model = nn.Sequential(*model, nn.Linear(36, 1)).double()
    before = copy.deepcopy(model.state_dict())
    rl.nn.locality_penalty(model, images(4, 2, 5, 6), patches=((0, 0, 2, 2), (3, 3, 2, 2)))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    model(images(4, 2, 5, 6))
    assert not torch.equal(model[1].running_mean, before["1.running_mean"])


@pytest.mark.parametrize("y", [torch.tensor([0, 1, 2, -100]), torch.tensor([0, 1, 2, 3]), torch.tensor([0.0, 1, 2, 1])])
def test_classes_that_are_none_are_named(y):
    pair = ((0, 0, 2, 2), (3, 3, 2, 2))
    with pytest.raises(ValueError, match="classes are integers from 0 to 2"):
        rl.nn.locality_penalty(convolutional(2, 3, nn.Tanh), images(4, 2, 5, 6), y, patches=pair)


COMPILED = """
    import torch, ranklens as rl
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Conv2d(1, 3, 3), torch.nn.BatchNorm2d(3), torch.nn.Tanh(), torch.nn.Flatten(),
                                torch.nn.Linear(48, 1))
    inside = torch.nn.Sequential(torch.compile(model[:3]), *model[3:])
    compiled, x, pair = torch.compile(model), torch.randn(4, 1, 6, 6), ((0, 0, 2, 2), (4, 4, 2, 2))
    compiled(x).square().mean().backward()
    found = rl.nn.locality_penalty(compiled, x, patches=pair)
    found.backward()
    assert float(found.detach()) == float(rl.nn.locality_penalty(model, x, patches=pair).detach())
    assert float(rl.nn.locality_penalty(inside, x, patches=pair).detach()) == float(found.detach())
    print("same")
"""

DISTRIBUTED = """
    import sys, torch, ranklens as rl
    from torch import distributed, nn
    rank, store = int(sys.argv[1]), sys.argv[2]
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.Tanh(), nn.Flatten(), nn.Linear(48, 1))
    x = torch.randn(8, 1, 6, 6)
    pair, parts = ((0, 0, 2, 2), (4, 4, 2, 2)), x.split(4)
    wrapped = nn.parallel.DistributedDataParallel(model)
    part = parts[rank].requires_grad_()
    output = wrapped(part)
    (output.square().mean() + rl.nn.locality_penalty(wrapped, part, patches=pair, output=output)).backward()
    found = [p.grad.clone() for p in model.parameters()]
    losses = [model(p).square().mean() + rl.nn.locality_penalty(model, p.detach(), patches=pair) for p in parts]
    expected = torch.autograd.grad(sum(losses) / 2, list(model.parameters()))
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(found, expected))
    print("same")
"""


def script(text, *args):
    command = [sys.executable, "-W", "ignore", "-c", textwrap.dedent(text), *map(str, args)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_compiled_models_are_run_uncompiled():
    output, error = script(COMPILED).communicate(timeout=300)
    assert output.strip() == "same", error


@pytest.mark.slow
def test_processes_share_its_gradients(tmp_path):
    runs = [script(DISTRIBUTED, rank, tmp_path / "store") for rank in range(2)]
    for run in runs:
        output, error = run.communicate(timeout=120)
        assert output.split()[-1:] == ["same"], error  # some versions of torch print a line before it


def test_bad_input_is_named():
    model, x = convolutional(2, 3, nn.Tanh), images(4, 2, 5, 6)
    pair = ((0, 0, 2, 2), (3, 3, 2, 2))
    y = torch.zeros(4, dtype=torch.long)
    cases = [
        ({"x": x[:1], "y": y[:1]}, "x has 1 samples; patches are exchanged between samples"),
        ({}, "the model gives 3 logits; pass the true classes"),
        ({"y": y[:2]}, "y has shape"),
        ({"y": y, "fraction": 0.0}, "fraction is 0.0; it is a share"),
        ({"y": y, "eps": 0.0}, "eps is 0.0; it is a norm above 0"),
        ({"y": y, "patches": ((0, 0, 2, 2), (1, 1, 2, 2))}, "overlap"),
        ({"y": y, "patches": ((0, 0, 2, 2), (4, 5, 2, 2))}, r"patch 1 is the box \(4, 5, 2, 2\)"),
        ({"y": y, "patches": ((0, 0, 0, 2), (4, 4, 1, 1))}, "patch 0 is the box"),
        ({"y": y, "patches": (torch.zeros(5, 6, dtype=torch.bool), (0, 0, 1, 1))}, "patch 0 is empty"),
        ({"y": y, "patches": (torch.ones(7, dtype=torch.bool), (0, 0, 1, 1))}, "does not broadcast"),
        ({"y": y, "patches": rl.nn.PatchPairs(2)}, "there is no generator"),
        ({"y": y, "patches": rl.nn.PatchPairs(4), "generator": torch.Generator()}, "has no room"),
        ({"y": y, "output": model(x)}, "x does not require a gradient"),
    ]
    for change, message in cases:
        with pytest.raises(ValueError, match=message):
            rl.nn.locality_penalty(model, **{"x": x, "y": None, "patches": pair, **change})
    with pytest.raises(TypeError, match="a mask is boolean"):
        rl.nn.locality_penalty(model, x, y, patches=(torch.ones(5, 6), (0, 0, 1, 1)))
    for change, message in (
        ({"every": 0}, "every is 0"),
        ({"weight": -1.0}, "weight is"),
        ({"fraction": 2.0}, "fract"),
    ):
        with pytest.raises(ValueError, match=message):
            rl.nn.LocalityPenalty(pair, **change)
