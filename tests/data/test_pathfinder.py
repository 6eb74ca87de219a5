"""An independent solver agrees with every label, which only the path tells; pictures are the same anywhere."""

import ast
import functools
import hashlib
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import ranklens as rl
from ranklens.data.pathfinder import STROKES, Strokes

SIZES = [
    (32, 3),
    (32, 5),
    (32, 6),
    (64, 6),
    (64, 3),
    (64, 5),
    (64, 7),
    (64, 9),
    (150, 3),
    (150, 5),
    (150, 7),
    (150, 9),
]


@pytest.mark.parametrize(("side", "length"), SIZES)
def test_the_solver_agrees_with_every_label(side, length):
    found = rl.data.pathfinder(150, length, side)
    assert torch.equal(rl.data.trace(found.images), found.labels)
    assert found.images.shape == (150, side, side)
    assert 0.3 < float(found.labels.double().mean()) < 0.7


@pytest.mark.slow
@pytest.mark.parametrize("length", [3, 5, 7, 9])
@pytest.mark.parametrize("side", [64, 150])
def test_ten_thousand_labels_are_right(side, length):
    found = rl.data.pathfinder(10_000, length, side, seed=1)
    print(f"{side} x {side}, {length} dashes: {found.rejected:.1%} of the pictures begun were given up")
    assert torch.equal(rl.data.trace(found.images), found.labels)


@settings(max_examples=15)
@given(*(st.floats(*ends) for ends in ((2.0, 4.0), (1.0, 2.0), (1.0, 1.5), (0.3, 1.0))), st.integers(0, 9))
def test_other_strokes_are_traced_too(dash, gap, thickness, contrast, seed):
    radius = 1.5 * thickness
    strokes = Strokes(dash, gap, thickness, spacing=gap + 2 * radius + 3.5, radius=radius)
    found = rl.data.pathfinder(20, 5, 100, strokes=strokes, contrast=contrast, seed=seed)
    assert torch.equal(rl.data.trace(found.images, radius=radius, reach=gap + 1.7), found.labels)
    assert int(found.images.max()) == round(255 * contrast)


def test_the_solver_knows_nothing_of_the_generator():
    folder = Path(rl.data.__file__).parent
    for name, other in (("pathfinder", "tracing"), ("tracing", "pathfinder")):
        nodes = ast.walk(ast.parse((folder / f"{name}.py").read_text()))
        imported = {n.module for n in nodes if isinstance(n, ast.ImportFrom)}
        assert f"ranklens.data.{other}" not in imported


def best_threshold(values, labels):
    """The share of right answers of the best rule by one threshold, either way."""
    order = labels[values.argsort()].double()
    right = order.cumsum(0) + (1 - order).sum() - (1 - order).cumsum(0)  # if the lowest k were of one path
    return max(float(right.max()), len(labels) - float(right.min())) / len(labels)


def directions(image, markers):
    """The larger of the angles between the ink about a marker, 2.5 to 6 pixels off, and the way to the other one."""
    y, x = torch.meshgrid(*(torch.arange(float(n)) for n in image.shape), indexing="ij")
    found = []
    for me, other in (markers, markers.flip(0)):
        down, across = y - me[0], x - me[1]
        ink = image * ((down.hypot(across) > 2.5) & (down.hypot(across) < 6))
        pointing = torch.atan2((ink * down).sum(), (ink * across).sum())
        off = pointing - torch.atan2(other[0] - me[0], other[1] - me[1])
        found.append(float(torch.atan2(off.sin(), off.cos()).abs()))
    return max(found)


@functools.cache
def six_hundred(side, length):
    return rl.data.pathfinder(600, length, side)


@pytest.mark.parametrize(
    ("side", "length"),
    [
        pytest.param(64, 9, marks=pytest.mark.slow),
        (64, 6),
        pytest.param(150, 9, marks=pytest.mark.slow),
        pytest.param(150, 7, marks=pytest.mark.slow),
        (150, 3),
    ],
)
def test_the_distance_of_markers_does_not_tell_the_answer(side, length):
    """No threshold does better than chance, but for what 600 samples allow, 4 standard errors and the choice of one."""
    found = six_hundred(side, length)
    apart = (found.markers[:, 0] - found.markers[:, 1]).norm(dim=1)
    chance = max(float((found.labels == k).double().mean()) for k in (0, 1))
    assert best_threshold(apart, found.labels) < chance + 0.06


@pytest.mark.parametrize(("side", "length"), [(64, 9), (150, 9), (150, 7)])
def test_the_ink_about_markers_does_not_tell_the_answer(side, length):
    found = six_hundred(side, length)
    rows = zip(found.images, found.markers, strict=True)
    angles = torch.tensor([directions(image, markers) for image, markers in rows])
    chance = max(float((found.labels == k).double().mean()) for k in (0, 1))
    assert best_threshold(angles, found.labels) < chance + 0.06


def test_short_paths_point_at_each_other():
    """Three dashes are too short to hide it: this is what the two tests above would see."""
    found = rl.data.pathfinder(300, 3, 150)
    rows = zip(found.images, found.markers, strict=True)
    angles = torch.tensor([directions(image, markers) for image, markers in rows])
    assert best_threshold(angles, found.labels) > 0.9


def test_pictures_depend_on_the_seed_and_their_number():
    few, many, other = (rl.data.pathfinder(n, 5, 64, seed=s) for n, s in ((4, 0), (9, 0), (4, 1)))
    assert torch.equal(few.images, many.images[:4])
    assert torch.equal(few.labels, many.labels[:4])
    assert not torch.equal(few.images, other.images)


@pytest.mark.parametrize(
    ("side", "length", "expected"), [(32, 5, "32"), (64, 9, "64"), (150, 9, "150")], ids=["32", "64", "150"]
)
def test_pictures_are_the_same_anywhere(side, length, expected):
    found = rl.data.pathfinder(20, length, side, seed=7)
    digest = hashlib.sha256(found.images.numpy().tobytes() + found.labels.numpy().tobytes()).hexdigest()
    assert digest == HASHES[expected]


HASHES = {
    "32": "b39bc027923a51f46830bd6bd09596eee8a5c9c05725f759abcb1949150b386e",
    "64": "a39d5e5d013a3c450430febf01a10c608d2bbe93b144c41bce615acd9019a3b9",
    "150": "76d55d0ccbc058d59ab74e36ca6f946da225c1d501cff84d1a6af3b41ff57bc3",
}


def test_strokes_follow_the_side():
    assert rl.data.pathfinder(1, 3, 100).images.shape == (1, 100, 100)
    assert rl.data.pathfinder(2, 9, 150).distractors == 10
    assert rl.data.pathfinder(2, 9, 150, distractors=0).distractors == 0
    assert set(STROKES) == {32, 64, 150}


def test_bad_input_is_named(monkeypatch):
    monkeypatch.setattr(sys.modules["ranklens.data.pathfinder"], "IMAGES", 20)
    for args, change, message in (
        ((0,), {}, "count is 0"),
        ((1, 0), {}, "length 0"),
        ((1, 3, 16), {}, "side is 16; for less than 32"),
        ((1, 3, 64), {"contrast": 0.0}, "contrast is 0.0; it is at least 0.05"),
        ((1, 3, 64), {"contrast": float("nan")}, "contrast is nan"),
        ((1, 3, 64), {"distractors": -1}, "distractors is -1"),
        ((1, 20, 32), {}, "no image of 32 x 32 has room for two paths of 20 dashes in 20 tries"),
        ((1, 1, 64), {}, "length is 1; the markers on such a path are at most 2 pixels apart"),
    ):
        with pytest.raises(ValueError, match=message):
            rl.data.pathfinder(*args, **change)
    for change, message in (
        ({"spacing": 5.0}, "spacing is 5.0; for paths with a gap of 1.5"),
        ({"thickness": 0.5}, "thickness is 0.5"),
        ({"radius": 1.0}, "radius 1.0"),
        ({"gap": 0.2}, "a gap is over half"),
        ({"dash": 9.0}, "no longer than the spacing"),
    ):
        with pytest.raises(ValueError, match=message):
            Strokes(**change)
