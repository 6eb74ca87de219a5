"""Networks, spectra and claims of the study, against the definitions and planted records."""

import dataclasses
import math

import numpy as np
import pytest
import torch
import xarray as xr

import ranklens as rl
from ranklens import seeds, studies
from ranklens.studies.layers import autoencoder as study

# The codes are computed in float32, their covariance in float64.
CODES = 1e-5
# The standard deviation of 120,000 draws is known to about 0.2%.
DRAWN = 0.02


@pytest.fixture(scope="module")
def record():
    return studies.perform("autoencoder", study.PRESETS["tiny"])


def rows(count=30, values=12):
    return torch.rand(count, values, generator=seeds.stream(0, "rows of a test"))


@pytest.mark.parametrize("layers", [0, 1, 3])
def test_folding_keeps_outputs_and_leaves_no_layer_in_the_middle(layers):
    settings = dataclasses.replace(study.PRESETS["tiny"], code=5, hidden=7)
    model = study.autoencoder(settings, layers, 12, seed=1)
    small = study.fold(model)
    assert [layer.out_features for part in small for layer in part if hasattr(layer, "weight")] == [7, 7, 5, 7, 7, 12]
    assert torch.allclose(small(rows()), model(rows()), atol=CODES)


def test_square_matrices_start_as_pytorch_starts_linear_layers():
    model = study.autoencoder(dataclasses.replace(study.PRESETS["tiny"], code=200), 3, 12, seed=0)
    nodes = [value for name, value in model[1].named_parameters() if value.ndim >= 2]
    entries = torch.cat([node.detach().flatten() for node in nodes])
    assert entries.numel() == 3 * 200**2
    assert float(entries.std()) == pytest.approx(1 / math.sqrt(3 * 200), rel=DRAWN)  # uniform up to 1 / sqrt(200)


def test_the_spectrum_is_of_the_covariance_of_codes():
    model = study.autoencoder(study.PRESETS["tiny"], 2, 12, seed=0)
    codes = model[1](model[0](rows())).detach().double().numpy()
    s = np.linalg.svd(codes - codes.mean(axis=0), compute_uv=False)
    expected = np.zeros(8)
    expected[: len(s)] = s**2 / (len(codes) - 1)
    assert np.allclose(study.spectrum(model, rows()), expected, rtol=0, atol=CODES * expected[0])


def test_directions_are_counted_relative_to_the_largest():
    spectra = xr.DataArray([[2.0, 0.021, 0.019, 0.0], [5.0, 5.0, 0.1, math.nan]], dims=("seed", "direction"))
    first, second = study.directions(spectra).values
    assert first == 2
    assert math.isnan(second)


def test_images_are_of_the_named_data_set_and_split():
    settings = dataclasses.replace(study.PRESETS["tiny"], images="digits", train=20, test=10)
    found = study.images(settings, seed=0)
    assert (found.train.shape, found.test.shape) == ((20, 64), (10, 64))
    digits = rl.data.images("digits").test
    known = {tuple(x.tolist()): int(y) for x, y in zip(digits.images.flatten(1), digits.labels, strict=True)}
    for row, label in zip(found.test, found.test_labels, strict=True):
        assert known[tuple((16 * row).round().long().tolist())] == int(label)
    shapes = study.images(study.PRESETS["tiny"], seed=0)
    assert shapes.train.shape == (200, 3 * 8**2)
    assert float(shapes.train.min()) >= 0
    assert float(shapes.train.max()) <= 1
    centres = rl.data.shapes(300, 8, seed=0).factors[200:, 4:6]
    expected = 2 * (centres[:, 0] > 0.5).long() + (centres[:, 1] > 0.5).long()
    assert torch.equal(shapes.test_labels, expected)
    assert set(expected.tolist()) == set(range(study.QUADRANTS))


def test_frozen_layers_keep_their_values_while_the_others_are_trained():
    settings = dataclasses.replace(study.PRESETS["tiny"], steps=3)
    found = study.images(settings, 0)
    model = study.autoencoder(settings, 2, found.train.shape[1], seed=0)
    model[1].requires_grad_(False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    study.fit(model, found.train, settings, seed=0)
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {name for name in before if not name.startswith("1.")}


class Constant(torch.nn.Module):
    """A decoder that returns one image for every code."""

    def __init__(self, image):
        super().__init__()
        self.image = image

    def forward(self, x):
        return self.image.expand(len(x), -1)


def identity(decoder=None):
    return torch.nn.Sequential(torch.nn.Identity(), torch.nn.Identity(), decoder or torch.nn.Identity())


def test_the_mean_of_identical_codes_is_no_better_than_the_mean_of_the_images(tolerance):
    """With the pixels as codes, both means are one image; a decoder that returns a training image has distance 0."""
    found = study.Pictures(rows(40, 6), rows(20, 6) / 2, torch.zeros(40).long(), torch.zeros(20).long())
    assert study.halfway(identity(), found, seed=0) == pytest.approx(1.0, rel=tolerance["float32"])
    assert study.halfway(identity(Constant(found.train[3])), found, seed=0) < tolerance["float32"]


def test_classes_that_are_directions_of_the_codes_are_found_from_few_labels():
    labels = torch.arange(60) % 3
    x = torch.nn.functional.one_hot(labels, 6).float() + 0.01 * rows(60, 6)
    found = study.Pictures(x[:30], x[30:], labels[:30], labels[30:])
    assert study.classified(identity(), found, (15, 30), seed=0) == [1.0, 1.0]


def test_all_counts_and_errors_are_within_their_panels(record):
    _, counts, errors, uses = study.draw(record).axes
    for axes, highest in (
        (counts, record.untrained_count.max()),
        (errors, 100 * (record.frozen_error / record.variance).max()),
        (uses, record.accuracy.max()),
    ):
        low, high = axes.get_ylim()
        assert low == 0
        assert high >= float(highest)


def test_claims_by_hand_and_with_nan(record):
    planted = xr.concat([record.assign_coords(seed=[k]) for k in range(3)], dim="seed").transpose("layers", "seed", ...)
    planted.attrs = record.attrs
    planted.trained_count[:] = [[30, 20, 40], [8, 9, 1]]
    planted.untrained_count[:] = [[50, 50, 50], [20, 16, 1]]
    planted.frozen_count[:] = [[30, 20, 40], [10, 12, 1]]
    planted.error[:] = [[1.0, 2.0, 3.0], [2.1, 2.2, 9.0]]
    planted.folded[:] = 1e-6
    planted.midway[:] = [[0.8, 0.9, 1.0], [0.4, 0.45, 0.5]]
    planted.accuracy[:] = np.array([[0.5, 0.6, 0.7], [0.6, 0.8, 0.75]])[..., None]
    claims = study.claims(planted)
    assert [c.measured for c in claims] == pytest.approx([1e-6, -22, 8 / 30, 0.5, 10 / 8, 8, 1.1, 0.5, 0.1])
    assert all(claim.holds for claim in claims)
    for name, at, fails in (
        ("folded", (0, 1), [0]),
        ("trained_count", (1, 0), [1, 2, 3, 4, 5]),
        ("untrained_count", (1, 2), [3]),
        ("frozen_count", (1, 2), [4]),
        ("error", (0, 2), [6]),
        ("midway", (1, 1), [7]),
        ("accuracy", (1, 1, 0), [8]),
    ):
        poisoned = planted.copy(deep=True)
        poisoned[name][at] = math.nan
        assert [k for k, claim in enumerate(study.claims(poisoned)) if not claim.holds] == fails
