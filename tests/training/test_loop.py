"""The training loop takes the steps of a loop written by hand, and stops where the loss is not finite."""

import pytest
import torch
from torch import nn

from ranklens import seeds
from ranklens.training import loop

# Steps of every run here: enough for two periods of the watch and a rest.
STEPS = 7
# torch adds 1e-6 to the norm that it divides a gradient by.
CLIPPING = 2e-6


def regression(lr=0.1):
    x = torch.randn(20, 3, generator=seeds.stream(0, "inputs of a loop"), dtype=torch.float64)
    y = x @ torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    weight = nn.Parameter(torch.zeros(3, dtype=torch.float64))
    optimizer = torch.optim.SGD([weight], lr=lr, momentum=0.9)
    return weight, optimizer, lambda rows: (x[rows] @ weight - y[rows]).square().mean()


def test_it_is_the_loop_written_by_hand():
    """Batches, clipping and schedule included, to the last bit."""
    weight, optimizer, loss = regression()
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    batches = loop.random_rows(20, 4, seeds.stream(3, "batches"))
    taken = loop.train(loss, optimizer, steps=STEPS, batches=batches, schedule=schedule, clip=0.5)
    other, optimizer, loss = regression()
    schedule, stream = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS), seeds.stream(3, "batches")
    for _ in range(STEPS):
        value = loss(torch.randint(20, (4,), generator=stream))
        optimizer.zero_grad()
        value.backward()
        nn.utils.clip_grad_norm_([other], 0.5)
        optimizer.step()
        schedule.step()
    assert taken == STEPS
    assert torch.equal(weight, other)
    assert optimizer.param_groups[0]["lr"] == 0  # the schedule has come to its end


def test_gradients_are_clipped_together():
    """The norm is over all parameters of all groups: two gradients of norm 1 become one of norm 1."""
    first, second = (nn.Parameter(torch.zeros(1, dtype=torch.float64)) for _ in range(2))
    optimizer = torch.optim.SGD([{"params": [first]}, {"params": [second]}], lr=1.0)
    loop.train(lambda _: first.sum() + second.sum(), optimizer, steps=1, clip=1.0)
    norm = float((first.square() + second.square()).sqrt().detach())
    assert norm == pytest.approx(1.0, rel=CLIPPING)


def test_without_batches_all_rows_are_taken():
    given = []
    weight, optimizer, _ = regression()

    def loss(rows):
        given.append(rows)
        return weight.sum()

    loop.train(loss, optimizer, steps=2)
    assert given == [slice(None)] * 2


@pytest.mark.parametrize(("every", "expected"), [(1, list(range(8))), (3, [0, 3, 6, 7]), (7, [0, 7]), (100, [0, 7])])
def test_it_is_watched_before_steps_and_at_the_end(every, expected):
    weight, optimizer, loss = regression()
    seen, values = [], []

    def watch(step):
        seen.append(step)
        values.append(weight.detach().clone())

    loop.train(loss, optimizer, steps=STEPS, watch=watch, every=every)
    assert seen == expected
    assert torch.equal(values[0], torch.zeros(3, dtype=torch.float64))
    assert torch.equal(values[-1], weight)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_stops_it_with_the_parameters_before(bad):
    weight, optimizer, loss = regression()
    steps = iter(range(100))
    seen = []
    with pytest.warns(RuntimeWarning, match=f"the training loss is {bad} at step 4, so training stopped"):
        taken = loop.train(
            lambda rows: loss(rows) * (bad if next(steps) == 4 else 1.0), optimizer, steps=STEPS, watch=seen.append
        )
    assert taken == 4
    assert seen == [0, 1, 2, 3, 4]
    expected, optimizer, loss = regression()
    loop.train(loss, optimizer, steps=4)
    assert torch.equal(weight, expected)


def test_rows_are_drawn_evenly_and_again_from_the_same_seed():
    draw, again = (loop.random_rows(4, 1000, seeds.stream(1, "rows")) for _ in range(2))
    rows = draw()
    assert torch.equal(rows, again())
    assert not torch.equal(rows, draw())
    counts = rows.bincount(minlength=4)
    assert counts.sum() == 1000
    assert int((counts - 250).abs().max()) < 5 * (1000 * 0.25 * 0.75) ** 0.5  # five standard deviations


@pytest.mark.parametrize("change", [{"steps": -1}, {"steps": 3, "every": 0}])
def test_counts_out_of_range_are_named(change):
    _, optimizer, loss = regression()
    with pytest.raises(ValueError, match="give at least 0 steps, and every as 1 or more"):
        loop.train(loss, optimizer, **change)
