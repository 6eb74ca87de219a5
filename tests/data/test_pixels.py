"""Pixels index entries; controls keep what they say; padding and levels are done as stated."""

import pytest
import torch

import ranklens as rl
from ranklens import problems
from ranklens.data import pixels

SELECTION = pixels.Selection("digits", levels=4, side=0, train=1000)


def completion(count=7, modes=4, levels=3):
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(levels, (count, modes), generator=generator, dtype=torch.uint8)
    return pixels.PixelCompletion(images, torch.randn(count, generator=generator, dtype=torch.float64))


def test_it_is_a_batched_problem_about_entries(tolerance):
    task, net = completion(), rl.cp((3,) * 4, rank=2, std=1.0)
    assert isinstance(task, problems.BatchedProblem)
    T = net.tensor().detach()
    expected = torch.stack([(T[tuple(row)] - y) ** 2 for row, y in zip(task.images.tolist(), task.labels, strict=True)])
    assert torch.allclose(task.errors(net), expected, rtol=tolerance["rounding"])
    assert float(task.loss(net).detach()) == pytest.approx(float(expected.mean()), rel=tolerance["rounding"])
    rows = torch.tensor([4, 1])
    assert torch.allclose(task.subset(rows).errors(net), expected[rows], rtol=tolerance["rounding"])
    assert len(task.subset(rows)) == 2


def test_evaluation_in_parts_changes_nothing(monkeypatch, tolerance):
    task, net = completion(), rl.cp((3,) * 4, rank=2, std=1.0)
    whole = task.errors(net)
    monkeypatch.setattr(pixels, "AT_ONCE", 3)
    with torch.no_grad():
        assert torch.allclose(task.errors(net), whole, rtol=tolerance["rounding"])


def test_levels_are_rounded_from_black_to_white():
    """Digits have values 0 to 16: with 17 levels they are kept, with 2 they are cut at one half, rounded to even."""
    loaded = rl.data.images("digits")
    everything = torch.cat([loaded.train.images, loaded.test.images])
    for levels, expected in ((17, everything), (2, (everything > 8).to(torch.uint8))):
        parts = pixels.draw(pixels.Selection("digits", levels, 0, 1000), "true", 0)
        found = torch.cat([part.images for part in parts])
        assert sorted(found.flatten(1).tolist()) == sorted(expected.flatten(1).tolist())


def test_parts_are_disjoint_and_all_there_is():
    loaded = rl.data.images("digits")
    train, test = pixels.draw(SELECTION, "true", 0)
    assert (len(train), len(test)) == (1000, 797)
    expected = torch.cat([loaded.train.labels, loaded.test.labels]).bincount()
    assert torch.equal(torch.cat([train.labels, test.labels]).bincount(), expected)
    assert len(pixels.draw(pixels.Selection("digits", 2, 0, 0), "true", 0)[0]) == len(loaded.train)


def test_images_are_averaged_down():
    """One level per value keeps averages of equal pixels; a side of 1 is the mean of the image, rounded."""
    parts = pixels.draw(pixels.Selection("digits", 17, 1, 1000), "true", 0)
    whole = pixels.draw(pixels.Selection("digits", 17, 0, 1000), "true", 0)
    for small, large in zip(parts, whole, strict=True):
        mean = large.images.double().mean(dim=(1, 2))
        assert float((small.images[:, 0, 0].double() - mean).abs().max()) <= 0.5 + 1e-5  # float32 means before rounding


def test_controls_keep_what_they_say():
    true, images, labels = (pixels.draw(SELECTION, control, 0) for control in pixels.CONTROLS)
    for original, noise, permuted in zip(true, images, labels, strict=True):
        assert torch.equal(noise.labels, original.labels)
        assert noise.images.shape == original.images.shape
        counts = noise.images.flatten().bincount(minlength=4).double()
        chance = counts.sum() / 4
        assert float((counts - chance).abs().max()) < 5 * float(chance * 3 / 4) ** 0.5  # five standard deviations
        assert torch.equal(permuted.images, original.images)
        assert torch.equal(permuted.labels.bincount(), original.labels.bincount())
        assert not torch.equal(permuted.labels, original.labels)


def test_one_class_against_all_others():
    parts = pixels.draw(SELECTION, "true", 0)
    found = pixels.against(parts, 6, 2.5, torch.float32)
    for problem, part in ((found.train, parts[0]), (found.test, parts[1])):
        assert problem.labels.dtype == torch.float32
        assert torch.equal(problem.labels, 2.5 * (part.labels == 6).float())
        assert torch.equal(problem.images, part.images.flatten(1))


@pytest.mark.parametrize(("side", "top"), [(8, 0), (11, 1), (16, 4)])
def test_padding_is_black_and_about_the_middle(side, top):
    found = pixels.against(pixels.draw(SELECTION, "true", 0), 6, 1.0, torch.float64)
    padded = pixels.pad(found, side)
    expected = torch.zeros(1000, side, side, dtype=torch.uint8)
    expected[:, top : top + 8, top : top + 8] = found.train.images.reshape(-1, 8, 8)
    assert torch.equal(padded.train.images.reshape(-1, side, side), expected)
    assert torch.equal(padded.test.labels, found.test.labels)
