import numpy as np
import pytest
import torch

import ranklens as rl


def test_group_rmsprop_is_its_formula():
    made = torch.Generator().manual_seed(0)
    x = torch.randn(4, generator=made, dtype=torch.float64).requires_grad_()
    y = torch.randn(2, 2, generator=made, dtype=torch.float64).requires_grad_()
    groups = [{"params": [x]}, {"params": [y], "lr": 0.05}]
    optimizer = rl.optim.GroupRMSprop(groups, lr=0.1, beta=0.9, eps=1e-6)
    a, b, v = x.detach().numpy().copy(), y.detach().numpy().copy(), 0.0
    for t in range(1, 6):
        loss = (x**4).sum() + (x.sum() * y).square().sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        ga = 4 * a**3 + 2 * a.sum() * (b**2).sum()
        gb = 2 * a.sum() ** 2 * b
        v = 0.9 * v + 0.1 * ((ga**2).sum() + (gb**2).sum())
        scale = np.sqrt(v / (1 - 0.9**t)) + 1e-6
        a, b = a - 0.1 * ga / scale, b - 0.05 * gb / scale
        assert optimizer.effective_lr == pytest.approx(0.1 / scale)
    np.testing.assert_allclose(x.detach(), a, rtol=1e-12)
    np.testing.assert_allclose(y.detach(), b, rtol=1e-12)


def test_it_is_gradient_flow_in_another_time():
    target = torch.diag(torch.tensor([2.0, 1.0]).double())
    everything = torch.cartesian_prod(torch.arange(2), torch.arange(2))
    task = rl.Completion(everything, target.reshape(-1), (2, 2), loss="half_sse")
    nets = [rl.init.product_(rl.deep_matrix((2, 2), depth=3), 0.1 * torch.eye(2).double()) for _ in range(2)]
    optimizer = rl.optim.GroupRMSprop(nets[0].parameters(), lr=1e-4)
    now = 0.0
    for _ in range(6000):
        optimizer.zero_grad()
        task.loss(nets[0]).backward()
        optimizer.step()
        now += optimizer.effective_lr
    rl.gradient_flow(nets[1], task, until_time=now, until_loss=0.0, rtol=1e-9)
    torch.testing.assert_close(nets[0].tensor(), nets[1].tensor(), rtol=5e-3, atol=5e-3)


def test_closure_nothing_to_do_and_bad_numbers():
    x = torch.ones(2, dtype=torch.float64, requires_grad=True)
    optimizer = rl.optim.GroupRMSprop([x], lr=0.1)
    assert optimizer.effective_lr == 0.0
    assert optimizer.step() is None
    assert x.tolist() == [1, 1]

    def closure():
        optimizer.zero_grad()
        loss = x.square().sum()
        loss.backward()
        return loss

    assert float(optimizer.step(closure).detach()) == 2.0
    for how, message in [({"lr": 0.0}, "lr is 0.0"), ({"beta": 1.0}, "beta is 1.0"), ({"eps": -1.0}, "eps is -1.0")]:
        with pytest.raises(ValueError, match=message):
            rl.optim.GroupRMSprop([x], **how)
    with pytest.raises(ValueError, match=r"a group has beta 0\.5, the others 0\.99"):
        rl.optim.GroupRMSprop([{"params": [x], "beta": 0.5}])


@pytest.mark.parametrize("kind", [rl.optim.SharedAdam, rl.optim.SignDescent, rl.optim.Spectral])
@pytest.mark.parametrize("lr", [0.0, -1.0, float("nan"), float("inf")])
def test_other_optimizers_refuse_bad_steps(kind, lr):
    with pytest.raises(ValueError, match=r"lr is .*; it must be a (finite number above 0|number$)"):
        kind([torch.zeros(2, 2, requires_grad=True)], lr=lr)


def test_shared_adam_by_hand():
    """Two steps in two tensors against the formula in numbers; one second moment for both."""
    x, y = (torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in ([3.0, 4.0], [12.0]))
    optimizer = rl.optim.SharedAdam([x, y], lr=0.1, betas=(0.5, 0.75), eps=0.0)
    state, mean, square = [3.0, 4.0, 12.0], [0.0] * 3, 0.0
    for t in (1, 2):
        optimizer.zero_grad()
        ((x**2).sum() / 2 + (y**2).sum() / 2).backward()
        optimizer.step()
        square = 0.75 * square + 0.25 * sum(v * v for v in state)
        mean = [0.5 * m + 0.5 * v for m, v in zip(mean, state, strict=True)]
        size = (square / (1 - 0.75**t)) ** 0.5
        state = [v - 0.1 * m / (1 - 0.5**t) / size for v, m in zip(state, mean, strict=True)]
    assert [*x.tolist(), *y.tolist()] == pytest.approx(state)


def test_sign_and_spectral_steps():
    start = torch.tensor([[3.0, -1.0], [0.5, 2.0]], dtype=torch.float64)
    W, V = start.clone().requires_grad_(), start.clone().requires_grad_()
    for parameter, optimizer in ((W, rl.optim.SignDescent([W], lr=0.1)), (V, rl.optim.Spectral([V], lr=0.1))):
        (parameter**2).sum().backward()
        optimizer.step()
    assert torch.allclose(W, start - 0.1 * start.sign())
    step = (start - V.detach()) / 0.1
    assert torch.allclose(step @ step.T, torch.eye(2, dtype=torch.float64))


def test_a_spectral_step_leaves_directions_without_gradient():
    W = torch.eye(3, dtype=torch.float64).requires_grad_()
    W[0].sum().backward()
    rl.optim.Spectral([W], lr=1.0).step()
    assert int(rl.numerical_rank(W.detach() - torch.eye(3, dtype=torch.float64))) == 1
    with pytest.raises(ValueError, match=r"shape \(3,\); spectral steps are those of matrices"):
        rl.optim.Spectral([torch.zeros(3, requires_grad=True)])


def test_betas_are_checked():
    with pytest.raises(ValueError, match="both must be at least 0 and below 1"):
        rl.optim.SharedAdam([torch.zeros(2, requires_grad=True)], betas=(0.9, 1.0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_spectral_step_takes_rounding_errors_for_no_directions(dtype):
    """A gradient of rank one whose entries are rounded, so that its other singular values are small but not zero."""
    made = torch.Generator().manual_seed(0)
    u, v = (torch.randn(n, generator=made, dtype=dtype) for n in (7, 5))
    W = torch.zeros(7, 5, dtype=dtype, requires_grad=True)
    W.grad = torch.outer(u, v)
    assert float(rl.singular_values(W.grad)[1]) > 0
    rl.optim.Spectral([W], lr=1.0).step()
    assert float(rl.nuclear_norm(W.detach())) == pytest.approx(1.0)
