"""The solver follows ink: it crosses gaps of a path, and neither larger gaps nor the space between paths."""

import pytest
import torch

import ranklens as rl


def drawn(*columns, row=12):
    """An image of one path with gaps, a marker at either end, and ink in the given columns."""
    image = torch.zeros(1, 40, 40, dtype=torch.uint8)
    image[0, row, list(columns)] = 255
    for end in (min(columns), max(columns)):
        image[0, row - 1 : row + 2, end - 1 : end + 2] = 255
    return image


@pytest.mark.parametrize(("gap", "joined"), [(1, 1), (3, 1), (4, 0), (8, 0)])
def test_gaps_are_crossed_up_to_the_reach(gap, joined):
    """Pixels at a distance of 3 are within the default reach of 3.2, and at a distance of 4 are not."""
    columns = [*range(4, 16), *range(15 + gap, 34)]
    assert int(rl.data.trace(drawn(*columns))) == joined


def test_ink_of_other_paths_joins_nothing():
    image = drawn(*range(4, 14), *range(24, 34))
    assert int(rl.data.trace(image)) == 0
    image[0, 17, 4:34] = 255  # five rows below
    assert int(rl.data.trace(image)) == 0
    image[0, 12, 14:24] = 255
    assert int(rl.data.trace(image)) == 1


def test_the_scale_of_grey_levels_does_not_matter():
    image = drawn(*range(4, 34))
    assert torch.equal(rl.data.trace(image), rl.data.trace(image // 10))


def test_images_are_traced_one_by_one():
    joined, apart = drawn(*range(4, 34)), drawn(*range(4, 14), *range(24, 34))
    assert rl.data.trace(torch.cat([joined, apart, joined])).tolist() == [1, 0, 1]


def test_the_solver_sees_a_label_that_is_wrong():
    """Wiping out a dash in the middle of the path between both markers makes it two."""
    found = rl.data.pathfinder(60, 7, 64, distractors=0)
    wrong = 0
    for image, label, (one, other) in zip(found.images, found.labels, found.markers, strict=True):
        if int(label) == 1:
            cut = image.clone()
            y, x = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
            nearer = (y - one[0]).square() + (x - one[1]).square() - (y - other[0]).square() - (x - other[1]).square()
            cut[nearer.abs() < 6 * (one - other).norm()] = 0  # a band of 6 pixels about the middle
            wrong += int(rl.data.trace(cut[None])[0]) == 0
    assert wrong == int(found.labels.sum())


def test_images_without_ink_are_refused():
    whole = drawn(*range(4, 34))
    with pytest.raises(ValueError, match="an image without ink"):
        rl.data.trace(torch.cat([whole, torch.zeros_like(whole)]))
