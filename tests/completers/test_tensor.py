"""TensorCompleter against planted tensors of every family."""

import numpy as np
import pandas as pd
import pytest
import torch
from completion_cases import everything

import ranklens as rl
from ranklens.completers.observed import Observed
from ranklens.completers.side import STRENGTHS
from ranklens.completers.tensor import leaning_

# A completion of data with noise of 1%: relative error over all entries, twice the noise.
DENOISED = 0.02
# A completion of data without noise by families that have more parameters than the target needs.
RECOVERED = 1e-2


@pytest.mark.parametrize(
    ("family", "make", "widths"),
    [
        ("cp", lambda: rl.targets.cp((12, 11, 10), 2), {"r": 2}),
        ("hierarchical", lambda: rl.targets.hierarchical((6,) * 4, 2), {"(0, 1)": 2, "(2, 3)": 2, "(0, 1, 2, 3)": 2}),
        ("tensor_train", lambda: rl.targets.cp((8, 8, 8), 2), {"r1": 2, "r2": 2}),
    ],
)
def test_tensors_of_every_family(family, make, widths):
    target = make()
    task = rl.Completion.sample(target, observed=target.numel() * 4 // 10, noise=0.01)
    completer = rl.TensorCompleter(target.shape, family, max_steps=1000).fit(task.indices, task.values)
    assert completer.widths_ == widths
    assert float(task.error(completer.network_)) < DENOISED


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_the_initialization_for_data_with_a_mean_has_a_mean_of_its_sign(sign):
    made = torch.Generator().manual_seed(0)
    indices = torch.randint(9, (200, 3), generator=made)
    observed = Observed(indices, sign * (1 + torch.rand(200, generator=made, dtype=torch.float64)), (9, 9, 9))
    net = leaning_(rl.cp((9, 9, 9), 4, std=1e-2), observed)
    assert float(net.entries(indices).detach().mean()) * sign > 0
    before = rl.cp((9, 9, 9), 4, std=1e-2)
    centred = leaning_(rl.cp((9, 9, 9), 4, std=1e-2), observed.minus(observed.values.mean().expand(200)))
    assert torch.equal(centred.tensor(), before.tensor())


def test_a_network_or_a_function_is_a_family():
    target = rl.targets.cp((8, 8, 8), 1)
    task = rl.Completion.sample(target, observed=300)
    ring = rl.tensor_ring((8, 8, 8), 3)
    before = ring.tensor().detach().clone()
    for family in (ring, lambda shape: rl.tucker(shape, 3)):
        completer = rl.TensorCompleter((8, 8, 8), family, max_steps=500).fit(task.indices, task.values)
        assert float(task.error(completer.network_)) < RECOVERED
    assert torch.equal(ring.tensor(), before)  # it was copied


def test_a_network_that_a_family_gives_is_not_changed():
    shared = rl.cp((4, 4, 4), rank=2, std=1.0)
    before = shared.tensor().detach().clone()
    indices = np.argwhere(np.ones((4, 4, 4)))
    rl.TensorCompleter((4, 4, 4), family=lambda shape: shared, max_steps=20).fit(indices, np.ones(64))
    assert torch.equal(shared.tensor().detach(), before)


def test_frames_of_positions():
    target = rl.targets.cp((6, 6, 6), 1)
    task = rl.Completion.sample(target, observed=150)
    frame = pd.DataFrame(task.indices.numpy(), columns=["user", "item", "week"], index=range(1000, 1150))
    completer = rl.TensorCompleter((6, 6, 6), biases=True, max_steps=500).fit(frame, pd.Series(task.values.numpy()))
    found = completer.predict(frame)
    assert isinstance(found, pd.Series)
    assert list(found.index) == list(frame.index)
    assert completer.score(frame, task.values.numpy()) > 0.9


@pytest.mark.parametrize(
    ("indices", "values", "kind", "message"),
    [
        ([[0, 0, 3]], [1.0], ValueError, "outside mode 2"),
        ([[0.0, 0, 1]], [1.0], TypeError, "positions are integers"),
        ([[0, 0, 1]], [np.nan], ValueError, "not finite"),
        ([[0, 0, 1]], [1.0, 2.0], ValueError, "one value per row"),
        (np.zeros((0, 3), dtype=int), [], ValueError, "one value per row"),
    ],
)
def test_wrong_entries_are_refused(indices, values, kind, message):
    with pytest.raises(kind, match=message):
        rl.TensorCompleter((3, 3, 3)).fit(indices, values)


@pytest.mark.parametrize("given", [lambda net: net, lambda net: lambda shape: net], ids=["network", "function"])
def test_networks_with_frozen_nodes_are_refused(given):
    net = rl.cp((3, 3), 2).freeze(1)
    with pytest.raises(ValueError, match=r"nodes \(1,\) of the network are frozen"):
        rl.TensorCompleter((3, 3), given(net)).fit([[0, 1], [1, 0]], [1.0, 2.0])


def test_predictions_are_biases_plus_network(tolerance):
    made = torch.Generator().manual_seed(0)
    whole = everything(3 + rl.targets.cp((5, 6, 4), 1) + 0.1 * torch.randn(5, 6, 4, generator=made))
    completer = rl.TensorCompleter((5, 6, 4), biases=True, max_steps=300, posterior=0).fit(whole.indices, whole.values)
    assert completer.network_ is not None
    literal = completer._biases.at(whole.indices) + completer.network_.entries(whole.indices).detach()
    assert np.allclose(completer.predict(whole.indices), literal.numpy(), atol=tolerance["rounding"])
    assert completer.network_.device.type == "cpu"


def test_families_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="choose one of"):
        rl.TensorCompleter((3, 3), "nothing").fit([[0, 1], [1, 0]], [1.0, 2.0])
    with pytest.raises(ValueError, match="must agree"):
        rl.TensorCompleter((3, 3), rl.cp((3, 4))).fit([[0, 1], [1, 0]], [1.0, 2.0])


@pytest.mark.slow
def test_a_tensor_of_rank_above_sixteen_is_completed():
    target = rl.targets.cp((40, 30, 20), 20)
    task = rl.Completion.sample(target, observed=9000)
    completer = rl.TensorCompleter((40, 30, 20), posterior=0).fit(task.indices, task.values)
    found = completer.predict(np.argwhere(np.ones(target.shape)))
    assert np.linalg.norm(found - target.numpy().ravel()) < 1e-3 * np.linalg.norm(target)
    assert completer.widths_ == {"r": 20}


@pytest.mark.slow
def test_smooth_modes_predict_indices_that_were_never_observed():
    """Of a slow curve with noise, whole days are missing at all sensors; the prior says that neighbours are alike."""
    made = np.random.default_rng(0)
    days = np.arange(40)
    curve = np.stack([np.sin(days / 6), np.cos(days / 9)], axis=1)
    whole = np.einsum("sr,dr,hr->sdh", made.standard_normal((8, 2)), curve, made.standard_normal((6, 2)))
    seen = np.ones(40, dtype=bool)
    seen[[7, 8, 20, 31]] = False
    there = np.broadcast_to(seen[None, :, None], whole.shape)
    frame = pd.DataFrame(np.argwhere(there), columns=["sensor", "day", "hour"])
    values = whole[there] + 0.3 * made.standard_normal(there.sum())
    holes = np.argwhere(~there)
    errors = {}
    for strength in (None, 1.0, "auto"):
        smooth = None if strength is None else {"day": strength}
        completer = rl.TensorCompleter(
            whole.shape,
            smooth=smooth,
            biases=False,
            width=8,
            max_steps=500,
            held_out=lambda at, seed: at[:, 1] % 9 == 4,
        )
        found = completer.fit(frame, values).predict(holes)
        errors[strength] = np.linalg.norm(found - whole[~there]) / np.linalg.norm(whole[~there])
    assert errors[1.0] < 0.5 * errors[None]
    assert errors["auto"] < 1.1 * errors[1.0]
    assert completer.smooth_["day"] in STRENGTHS
    with pytest.raises(ValueError, match=r"smooth has the mode 'week'; the modes are \['sensor', 'day', 'hour'\]"):
        rl.TensorCompleter(whole.shape, smooth={"week": 1.0}).fit(frame, values)
    with pytest.raises(ValueError, match=r"strength of mode 'day' in smooth is -1\.0"):
        rl.TensorCompleter(whole.shape, smooth={"day": -1.0}).fit(frame, values)


def test_posteriors_of_tensors_know_their_uncertainty():
    target = rl.targets.cp((12, 11, 10), 2)
    target = target / target.square().mean().sqrt()
    task = rl.Completion.sample(target, observed=600, noise=0.2)
    completer = rl.TensorCompleter((12, 11, 10), width=8, max_steps=500).fit(task.indices, task.values)
    everywhere = pd.DataFrame(np.argwhere(np.ones((12, 11, 10))))
    means, deviations = completer.predict(everywhere, return_std=True)
    assert completer.posterior_
    assert isinstance(deviations, pd.Series)
    assert 0.18 < deviations.min() < deviations.mean() < 0.3
    off = np.abs(means - target.numpy().ravel()) / np.sqrt(deviations**2 - 0.2**2 * 0.9)
    assert np.mean(off < 2) > 0.9


def test_families_without_a_posterior_say_so():
    indices, values = np.argwhere(np.ones((4, 4, 4))), np.random.default_rng(0).standard_normal(64)
    with pytest.raises(ValueError, match="no posterior of a network of the family 'tucker'"):
        rl.TensorCompleter((4, 4, 4), "tucker", posterior=10).fit(indices, values)
    assert not rl.TensorCompleter((4, 4, 4), "tucker", max_steps=20).fit(indices, values).posterior_
