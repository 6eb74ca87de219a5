"""Boxes and masks are the same regions; random pairs keep their distance, and all of them are drawn."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import ranklens as rl
from ranklens.nn import regions

SHAPE = (2, 5, 6)


@pytest.mark.parametrize("box", [(0, 0, 2, 3), (3, 3, 2, 3), (0, 0, 5, 6), (4, 5, 1, 1)])
def test_a_box_is_its_pixels_in_every_channel(box):
    top, left, height, width = box
    found = regions.mask(box, SHAPE)
    assert found.shape == SHAPE
    for channel in found.tolist():
        inside = {(i, j) for i, row in enumerate(channel) for j, x in enumerate(row) if x}
        assert inside == {(i, j) for i in range(top, top + height) for j in range(left, left + width)}


def test_masks_may_be_of_numpy_and_are_broadcast():
    box = regions.mask((1, 2, 3, 2), SHAPE)
    for given_mask in (box[0], box[0].numpy(), box, np.array(box.tolist())):
        assert torch.equal(regions.mask(given_mask, SHAPE), box)
    first, second = regions.masks(((1, 2, 3, 2), (~box[0]).numpy()), SHAPE)
    assert torch.equal(first, box)
    assert torch.equal(second, ~box)


@pytest.mark.parametrize(
    ("region", "error", "message"),
    [
        ((4, 5, 2, 2), ValueError, r"region is the box \(4, 5, 2, 2\) .* not within 5 x 6"),
        ((-1, 0, 2, 2), ValueError, "not within 5 x 6"),
        ((0, 0, 0, 2), ValueError, "region is the box"),
        ((0, 0, 2), ValueError, r"give a box \(top, left, height, width\)"),
        (torch.zeros(5, 6, dtype=torch.bool), ValueError, "region is empty"),
        (torch.ones(7, dtype=torch.bool), ValueError, "does not broadcast to one input"),
        (torch.ones(5, 6), TypeError, "a mask is boolean"),
    ],
)
def test_regions_that_do_not_fit_are_named(region, error, message):
    with pytest.raises(error, match=message):
        regions.mask(region, SHAPE)


def test_pairs_that_overlap_are_refused():
    with pytest.raises(ValueError, match="overlap; give two without a common element"):
        regions.masks(((0, 0, 2, 2), (1, 1, 2, 2)), SHAPE)
    assert not bool(torch.logical_and(*regions.masks(((0, 0, 2, 2), (2, 0, 2, 2)), SHAPE)).any())


@given(st.integers(1, 4), st.integers(1, 4), st.integers(0, 6), st.booleans(), st.integers(0, 99))
def test_drawn_pairs_keep_their_distance(height, width, distance, adjacent, seed):
    pairs = rl.nn.PatchPairs((height, width), distance=0 if adjacent else distance, adjacent=adjacent)
    (top, left, *size), (top2, left2, *size2) = pairs((3, 17, 19), torch.Generator().manual_seed(seed))
    assert size == size2 == [height, width]
    for at, limit in ((top, 17 - height), (top2, 17 - height), (left, 19 - width), (left2, 19 - width)):
        assert 0 <= at <= limit
    gap = max(abs(top - top2) - height, abs(left - left2) - width)
    assert gap == 0 if adjacent else gap >= distance
    if adjacent:
        assert top == top2 or left == left2


def test_drawn_pairs_are_all_that_there_are():
    """On a small picture, every pair that keeps its distance comes up, and no other."""
    pairs, generator = rl.nn.PatchPairs(1, distance=1, most=1), torch.Generator().manual_seed(0)
    found = {pairs((3, 3), generator) for _ in range(1000)}
    places = [(i, j) for i in range(3) for j in range(3)]
    expected = {
        ((*a, 1, 1), (*b, 1, 1)) for a in places for b in places if max(abs(a[0] - b[0]), abs(a[1] - b[1])) == 2
    }
    assert found == expected


def test_pairs_that_cannot_be_are_refused():
    for change, message in (
        ({"size": 0}, "size is 0"),
        ({"size": 2, "distance": -1}, "distance is -1"),
        ({"size": 2, "distance": 1, "adjacent": True}, "0 where patches are adjacent"),
        ({"size": 2, "distance": 3, "most": 2}, "most is 2"),
        ({"size": 2, "adjacent": True, "most": 5}, "not for adjacent"),
    ):
        with pytest.raises(ValueError, match=message):
            rl.nn.PatchPairs(**change)


def test_two_boxes_come_in_either_order():
    """Each order in about half of 400 draws: 5 standard deviations are 50 draws."""
    first, second = (0, 0, 2, 2), (0, 4, 2, 2)
    sampler, made = regions.EitherOrder(first, second), torch.Generator().manual_seed(0)
    drawn = [sampler(SHAPE, made) for _ in range(400)]
    assert set(drawn) == {(first, second), (second, first)}
    assert abs(drawn.count((first, second)) - 200) < 50
