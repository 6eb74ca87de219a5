"""Loss and gradient without autograd against autograd, for every problem and loss."""

import cases
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import ranklens as rl
from ranklens.dynamics.gradient import LossGradient
from ranklens.problems.readout import reads_end_tensor

LOSSES = ["mse", "half_sse", "huber", "l1", rl.losses.huber(0.1), lambda p, v: (p - v) ** 4]


def check(net, task, bound):
    gradient = LossGradient(net, task)
    for _ in range(2):  # memory is used again
        loss = task.loss(net)
        wanted = torch.autograd.grad(loss, gradient.trained, allow_unused=True, materialize_grads=True)
        loss, found = float(loss.detach()), gradient()
        scale = max([float(w.abs().max()) for w in wanted if w.numel()] + [abs(loss)])
        for value in (found, gradient.loss()):
            assert abs(float(value) - loss) <= bound * max(abs(loss), scale)
        for part, other in zip(gradient.parts, wanted, strict=True):
            assert float((part - other).abs().mean()) <= bound * scale
        with torch.no_grad():
            for stack in gradient.trained:
                stack.mul_(0.8)
    return gradient


class Squares:
    """A problem of a user's own: the sum of the squared entries."""

    def loss(self, net):
        return net.tensor().square().sum()


def values_of(net, count, seed=0):
    return torch.randn(count, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@given(einsum=cases.einsums(), data=st.data(), loss=st.sampled_from(LOSSES))
@settings(max_examples=150)
def test_completion(einsum, data, loss, tolerance):
    """Few or many entries, repeated ones among them, of random networks with frozen nodes."""
    net = rl.TensorNetwork(*einsum)
    if not net.shape:
        return
    net.freeze(*data.draw(st.sets(st.integers(0, len(net.nodes) - 2))))
    count = data.draw(st.integers(1, 2 * net.tensor().numel()))
    made = torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
    indices = torch.stack([torch.randint(d, (count,), generator=made) for d in net.shape], dim=1)
    task = rl.Completion(indices, values_of(net, count), net.shape, loss=loss, duplicates="keep")
    check(net, task, tolerance["planned"])


@pytest.mark.parametrize("task", ["few", "masked", "huber", "sensing", "own"])
def test_minus_the_gradient_without_the_loss_is_minus_the_gradient(task):
    """The flow writes its velocity by `write`, by any way there is: look-ups, a mask, autograd in part, autograd."""
    net = rl.cp((4, 4, 4), rank=3, std=0.5)
    target = rl.targets.cp((4, 4, 4), rank=2)
    task = {
        "few": lambda: rl.Completion.sample(target, observed=7),
        "masked": lambda: rl.Completion.sample(target, observed=40),
        "huber": lambda: rl.Completion.sample(target, observed=40, loss="huber"),
        "sensing": lambda: rl.Sensing(values_of(net, 20 * 12).view(20, 3, 4), values_of(net, 20, seed=1)),
        "own": Squares,
    }[task]()
    plus, minus = LossGradient(net, task), LossGradient(net, task, sign=-1)
    for _ in range(2):  # memory is used again
        plus()
        minus.write()
        assert all(torch.equal(part, -other) for part, other in zip(minus.parts, plus.parts, strict=True))
        assert any(bool(part.any()) for part in plus.parts)


@pytest.mark.parametrize("loss", LOSSES[:4])
@pytest.mark.parametrize("name", cases.NETWORKS)
def test_completion_of_every_family(name, loss, tolerance):
    net = cases.NETWORKS[name](0.7)
    if net.shape:
        target = torch.randn(net.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
        task = rl.Completion.sample(target, observed=max(1, target.numel() // 2), loss=loss)
        assert reads_end_tensor(task, net.layout) == (check(net, task, tolerance["planned"]).planned is not None)


@pytest.mark.parametrize("name", cases.NETWORKS)
def test_sensing(name, tolerance):
    net = cases.NETWORKS[name](0.7)
    if not net.shape:
        return
    made = torch.Generator().manual_seed(1)
    vectors = [torch.randn(7, d, dtype=torch.float64, generator=made) for d in net.shape]
    assert check(net, rl.Sensing(vectors, values_of(net, 7)), tolerance["planned"]).planned is not None
    operators = torch.randn(5, *net.shape, dtype=torch.float64, generator=made)
    assert check(net, rl.DenseSensing(operators, values_of(net, 5)), tolerance["planned"]).planned is not None


def test_own_problems_are_differentiated_by_autograd(tolerance):
    """A class of the user's, and a subclass of ours whose loss is another."""

    class Doubled(rl.Completion):
        def loss(self, tensor):
            return 2 * super().loss(tensor)

    net = rl.cp((3, 4, 2), rank=3, std=0.7)
    plain = rl.Completion.sample(torch.ones(3, 4, 2, dtype=torch.float64), observed=20)
    doubled = Doubled(plain.indices, plain.values, plain.shape)
    assert check(net, doubled, tolerance["planned"]).planned is None
    assert check(rl.TensorNetwork("i,ij,j->", [torch.ones(2), torch.ones(2, 3), torch.ones(3)]), cases.Scalar(), 1e-6)
    assert float(LossGradient(net, doubled)()) == pytest.approx(2 * float(LossGradient(net, plain)()))


def test_few_entries_of_a_large_tensor_do_not_form_it():
    net = rl.cp((2,) * 64, rank=2)
    task = rl.Completion(torch.zeros(1, 64, dtype=torch.long), torch.ones(1), net.shape)
    gradient = LossGradient(net, task)
    assert gradient.planned is None
    assert bool(torch.isfinite(gradient()))


def test_parameters_that_were_replaced_are_noticed():
    net = rl.deep_matrix((4, 4), depth=2)
    gradient = LossGradient(net, rl.Completion.sample(torch.ones(4, 4, dtype=torch.float64), observed=9))
    assert gradient.is_current
    net.stacks[0].data = net.stacks[0].data.clone()
    assert not gradient.is_current


def test_gradients_are_written_to_the_given_place(tolerance):
    net = rl.hierarchical((2, 2, 2, 2), width=3, std=0.5)
    flat = torch.zeros(sum(stack.numel() for stack in net.stacks), dtype=torch.float64)
    parts = [part.view_as(stack) for part, stack in zip(flat.split([s.numel() for s in net.stacks]), net.stacks)]  # noqa: B905
    task = rl.Completion.sample(torch.ones(2, 2, 2, 2, dtype=torch.float64), observed=9)
    LossGradient(net, task, parts)()
    wanted = torch.cat([w.reshape(-1) for w in torch.autograd.grad(task.loss(net), net.stacks)])
    torch.testing.assert_close(flat, wanted, rtol=tolerance["rounding"], atol=0.0)


@pytest.mark.parametrize("shape", [(5, 4), (4, 5), (2, 8), (2, 2, 4)], ids=str)
def test_network_of_another_shape_than_the_problem_is_refused(shape):
    """Flat positions of entries mean other entries in another shape, so such a network would fit without an error."""
    task = rl.Completion.sample(torch.ones(4, 4, dtype=torch.float64), observed=9)
    net = rl.deep_matrix(shape, depth=2) if len(shape) == 2 else rl.cp(shape, rank=2)
    with pytest.raises(ValueError, match=r"the problem is about tensors of shape \(4, 4\), not "):
        rl.gradient_flow(net, task)
    with pytest.raises(ValueError, match=r"pass a network or a tensor of the problem's shape"):
        rl.gradient_descent(net, task, torch.optim.SGD(net.parameters(), lr=0.1), steps=1)


@pytest.mark.parametrize(
    ("reduce", "error", "message"),
    [
        (
            lambda square: float(square.detach().mean()),
            TypeError,
            "the loss of a Own is a float; return a torch tensor",
        ),
        (lambda square: square, ValueError, r"the loss of a Own has shape \(3, 4\); return a single number"),
        (lambda square: square.detach().mean(), TypeError, "the loss of a Own has no gradient"),
    ],
    ids=["float", "no single number", "detached"],
)
def test_loss_that_cannot_be_differentiated_is_refused_with_a_remedy(reduce, error, message):
    class Own:
        def loss(self, net):
            return reduce(net.tensor().square())

    net = rl.deep_matrix((3, 4), depth=2, std=0.5)
    with pytest.raises(error, match=message):
        rl.gradient_flow(net, Own())
    with pytest.raises(error, match=message):
        rl.gradient_descent(net, Own(), torch.optim.SGD(net.parameters(), lr=0.1), steps=1)


def test_a_node_that_a_problem_does_not_read_has_a_gradient_of_zero():
    class SizeOfTheFirst:
        def loss(self, net):
            return net.nodes[0].square().sum() / 2

    net = rl.deep_matrix((3, 4), depth=2, std=0.5)
    gradient = LossGradient(net, SizeOfTheFirst())
    gradient.parts[1].fill_(7.0)
    gradient()
    assert torch.equal(gradient.parts[0], net.nodes[0].detach())
    assert not gradient.parts[1].any()


@pytest.mark.parametrize("loss", LOSSES[:3])
@pytest.mark.parametrize("kind", ["completion", "repeated", "sensing", "dense", "large"])
def test_mini_batches(kind, loss, tolerance):
    """The gradient of some observations is that of the problem made of them, also after other rows were read."""
    net = rl.cp((2,) * 40, rank=2, std=0.9) if kind == "large" else rl.cp((3, 4, 2), rank=3, std=0.7)
    made = torch.Generator().manual_seed(5)
    values = torch.randn(30, dtype=torch.float64, generator=made)
    indices = torch.stack([torch.randint(d, (30,), generator=made) for d in net.shape], dim=1)
    if kind == "sensing":
        vectors = [torch.randn(30, d, dtype=torch.float64, generator=made) for d in net.shape]
        task = rl.Sensing(vectors, values, loss=loss)
    elif kind == "dense":
        task = rl.DenseSensing(torch.randn(30, *net.shape, dtype=torch.float64, generator=made), values, loss=loss)
    elif kind == "completion":
        task = rl.Completion.sample(torch.randn(net.shape, dtype=torch.float64, generator=made), 20, loss=loss)
    else:
        task = rl.Completion(indices, values, net.shape, loss=loss, duplicates="keep")
    gradient = LossGradient(net, task)
    for rows in (torch.tensor([3, 1, 4, 15, 9]), torch.arange(len(task)), torch.tensor([2, 7, 2]), None):
        part = task if rows is None else task.subset(rows)
        wanted = torch.autograd.grad(part.loss(net), net.stacks)
        loss_found = gradient(rows)
        torch.testing.assert_close(loss_found, part.loss(net).detach(), rtol=tolerance["rounding"], atol=0.0)
        for found, other in zip(gradient.parts, wanted, strict=True):
            scale = float(other.abs().max())
            torch.testing.assert_close(found, other, rtol=0.0, atol=tolerance["rounding"] * scale)
