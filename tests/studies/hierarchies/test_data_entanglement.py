"""Entanglement of images in three orders, against tensors that are formed explicitly, and claims on planted records."""

import math

import pytest
import torch

import ranklens as rl
from ranklens import seeds, studies
from ranklens.studies.hierarchies import data_entanglement as study
from ranklens.training import networks

# Singular values are square roots of eigenvalues of Gram matrices, so entropies are known to about half the digits.
GRAM = 1e-7


@pytest.fixture(scope="module")
def record():
    return studies.perform("data_entanglement", study.PRESETS["tiny"])


def gray_images(count=20, pixels=16):
    return torch.rand(count, pixels, generator=seeds.stream(0, "gray images of a test"), dtype=torch.float64)


def test_entropies_and_bounds_are_those_of_the_data_tensor():
    gray, tree = gray_images(12, 8), rl.ModeTree.adjacent(8, 2)
    found = study.entanglement(gray, tree, [2, 4], (1, 3))
    T = torch.zeros((2,) * 8, dtype=torch.float64)
    for row in gray * math.pi / 2:
        product = torch.ones((), dtype=torch.float64)
        for angle in row:
            product = product[..., None] * torch.stack([angle.cos(), angle.sin()])
        T += product
    spectra = {node: torch.linalg.svdvals(rl.matricize(T, node)) for node in tree.nodes if len(node) < tree.order}

    def entropy(s):
        p = s.square() / s.square().sum()
        return float(-(p * p.clamp_min(1e-300).log()).sum())

    means = [torch.tensor([entropy(s) for n, s in spectra.items() if len(n) == size]).mean() for size in (2, 4)]
    assert found.entropy == pytest.approx([float(mean) for mean in means], abs=GRAM)
    beyond = [max(float(s[width:].square().sum() / s.square().sum()) for s in spectra.values()) for width in (1, 3)]
    assert found.beyond == pytest.approx(beyond, abs=GRAM)
    assert found.excess == pytest.approx(
        max(entropy(s) - math.log(min(12, 2 ** len(n))) for n, s in spectra.items()), abs=GRAM
    )
    assert found.oracle < GRAM


def test_orders_are_permutations_and_the_first_is_the_identity():
    orders = study._orders(gray_images(), rl.ModeTree.square(4, 2), seed=0)
    assert [order.sort().values.tolist() for order in orders] == [list(range(16))] * 3
    assert orders[0].tolist() == list(range(16))
    assert orders[1].tolist() != orders[0].tolist()


def test_images_are_gray_values_between_black_and_white():
    gray = study._gray(study.PRESETS["tiny"], seed=0)
    assert gray.shape == (1200, 64)
    assert float(gray.min()) == 0
    assert 0.9 < float(gray.max()) <= 1


def test_findings_are_ratios_of_orders_and_nan_fails_them(record):
    planted = record.copy(deep=True)
    for name, values in (
        ("entropy", (1.8, 2.0, 1.5)),
        ("beyond", (0.2, 0.4, 0.3)),
        ("train", (0.06, 0.08, 0.07)),
        ("accuracy", (0.9, 0.8, 0.82)),
    ):
        for order, value in zip(study.ORDERS, values, strict=True):
            planted[name].loc[{"order": order}] = value
    measured = [claim.measured for claim in study.claims(planted)[2:]]
    assert measured == pytest.approx([0.9, 0.75, 1.5 / 1.8, 0.5, 0.1, 0.02, 0.75, 0.875])
    for name, fails in (
        ("entropy", [2, 3]),
        ("beyond", [5]),
        ("accuracy", [6, 7]),
        ("train", [8, 9]),
        ("excess", [0]),
        ("oracle", [1]),
    ):
        poisoned = planted.copy(deep=True)
        poisoned[name].loc[{"order": "permuted"}] = math.nan
        claims = study.claims(poisoned)
        assert [k for k, claim in enumerate(claims) if math.isnan(claim.measured)] == fails
        assert not any(claims[k].holds for k in fails)


def test_rearranged_large_images_must_be_classified_better(record):
    """The claim of the source is made for images of MNIST; for the small digits it is that nothing changes."""
    settings = study.PRESETS["mnist"]
    small, large = (study._accuracies(record, each)[1] for each in (study.PRESETS["tiny"], settings))
    assert (small.relation, large.relation) == ("within", ">=")
    assert "32 x 32 pixels" in large.statement


def test_accuracy_in_natural_order_is_that_of_a_plain_network(record):
    settings = study.PRESETS["tiny"]
    split = networks.split("digits", settings.cnn_train, 0, 0)
    model = networks.cnn(8, 1, 0)
    networks.fit(model, split, networks.Schedule(settings.cnn_steps, study.CNN_BATCH, study.CNN_LR, 1), 0)
    assert float(record.accuracy.sel(order="natural", seed=0)) == networks.accuracy(model, split.test)
