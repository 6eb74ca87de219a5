"""Examples, networks, ranks and claims of the study, against the definitions and planted records."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from torch import nn

from ranklens import studies
from ranklens.studies.layers import simplicity_bias as study

# Relative error of the standard deviation, or of the share, of some thousand drawn numbers.
DRAWN = 0.1
# Relative error of the clipped gradient: torch adds 1e-6 to the norm by which it divides.
CLIPPING = 1e-6


@pytest.fixture(scope="module")
def record():
    return studies.perform("simplicity_bias", study.PRESETS["tiny"])


def test_outputs_are_linear_of_the_named_rank_and_noise_is_in_training_only(tolerance):
    settings = study.Settings(size=10, rank=3, train=200, test=50, noise=0.5)
    for target, rank in (("low", 3), ("full", 10)):
        made = study.examples(settings, target, seed=1)
        A = torch.linalg.lstsq(made.test_x, made.test_y).solution
        assert torch.allclose(made.test_x @ A, made.test_y, atol=tolerance["rounding"])
        s = torch.linalg.svdvals(A)
        assert int((s > tolerance["rounding"] * s[0]).sum()) == rank
        noise = made.y - made.x @ A
        assert float(noise.std() / made.test_y.std()) == pytest.approx(0.5, rel=DRAWN)
        assert set(made.observed.unique().tolist()) == {0.0, 1.0}
        assert float(made.observed.mean()) == pytest.approx(settings.shown, rel=DRAWN)


def test_training_is_on_observed_outputs_only(tolerance):
    """One gradient step of a linear layer, by the definition of the loss; hidden outputs do not matter."""
    settings = study.Settings(size=4, rank=2, train=6)
    made = study.examples(settings, "low", seed=0)
    hidden = 1 - made.observed
    changed = dataclasses.replace(made, y=made.y + 100 * hidden)
    ends = []
    for examples in (made, changed):
        model = study.network("linear", 4, 1, seed=0, scale=0.01)
        before = model[0].weight.detach().clone()
        study._train(model, examples, study._optimizer("SGD", model, 1e-3), 1)
        ends.append((model[0].weight.detach() - before) / -1e-3)
    assert torch.equal(*ends)
    residual = (made.x @ before.T - made.y) * made.observed
    gradient = 4 * residual.T @ made.x / made.observed.sum()
    clipped = gradient * min(1.0, study.CLIP / float(gradient.norm()))
    assert torch.allclose(ends[0], clipped, atol=10 * study.CLIP * CLIPPING)


@pytest.mark.parametrize("kind", study.NETWORKS)
def test_outputs_keep_their_size_through_the_layers(kind):
    model = study.network(kind, 300, 3, seed=0)
    assert [type(layer) for layer in model].count(nn.ReLU) == (2 if kind == "ReLU" else 0)
    assert [layer.weight.shape for layer in model if isinstance(layer, nn.Linear)] == [(300, 300)] * 3
    x = study.examples(study.Settings(size=300), "low", seed=0).x
    assert float(model(x).detach().square().mean() / x.square().mean()) == pytest.approx(1, rel=2 * DRAWN)
    small = study.network(kind, 300, 3, seed=0, scale=0.5)
    assert all(torch.equal(a, 0.5 * b) for a, b in zip(small.parameters(), model.parameters(), strict=True))


def test_the_effective_rank_of_a_product_by_numpy(tolerance):
    model = study.network("linear", 6, 2, seed=0)
    x = study.examples(study.Settings(size=6), "low", seed=0).x
    out = (x @ model[0].weight.T @ model[1].weight.T).detach().numpy()
    s = np.linalg.svd(out.T @ out, compute_uv=False)
    p = s / s.sum()
    assert study._rank(model, x) == pytest.approx(float(np.exp(-(p * np.log(p)).sum())), rel=tolerance["rounding"])
    assert study.rank_of_product(12, 0) < study.rank_of_product(1, 0) < study.WIDTH


@pytest.mark.parametrize(("name", "kind"), [("SGD", torch.optim.SGD), ("Adam", torch.optim.Adam)])
def test_optimizers_are_those_that_are_named(name, kind):
    model = study.network("linear", 3, 1, seed=0)
    assert type(study._optimizer(name, model, 0.1)) is kind
    assert study._optimizer("momentum", model, 0.1).param_groups[0]["momentum"] == 0.9
    assert study._optimizer("SGD", model, 0.1).param_groups[0]["momentum"] == 0


def test_claims_by_hand_and_with_nan(record):
    planted = record.copy(deep=True)
    planted["product"][:] = list(study.KNOWN.values())
    for name in ("before", "after", "error"):
        planted[name].loc[{"depth": 1}] = 2.0
        planted[name].loc[{"depth": 3}] = 1.0
    planted.before.loc[{"depth": 3, "network": "ReLU", "target": "full"}] = 1.2
    planted.after.loc[{"depth": 3, "network": "ReLU", "target": "low"}] = 1.4
    planted.error.loc[{"depth": 3, "network": "linear", "target": "full"}] = 3.0
    claims = study.claims(planted)
    assert [claim.measured for claim in claims] == pytest.approx([0, 0.5, 0.6, 0.7, 0.5, 0.5, 1.5])
    assert all(claim.holds for claim in claims)
    for name, place, fails in (
        ("product", {"layers": 8}, [0]),
        ("before", {"depth": 3, "network": "linear", "target": "low"}, [1]),
        ("after", {"depth": 1, "network": "linear", "target": "full"}, [4]),
        ("error", {"depth": 3, "network": "linear", "target": "full"}, [6]),
    ):
        poisoned = planted.copy(deep=True)
        poisoned[name].loc[place] = math.nan
        assert [k for k, claim in enumerate(study.claims(poisoned)) if not claim.holds] == fails
