"""Pathfinder: images of dashed paths with two markers, and whether both markers are on one path."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from random import Random

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from numpy.typing import NDArray
from torch import Tensor

from ranklens import seeds
from ranklens.tensors import arguments
from ranklens.tensors.annotations import checked, checked_class

# Row and column, in pixels.
Point = tuple[float, float]
# Dashes, each from one point to another.
Path = list[tuple[Point, Point]]

# Number of directions that are tried for a dash before its path is given up.
TURNS = 6
# Number of paths that are tried before no further distractor is drawn or, for a long path, the image is given up.
PATHS = 20
# Number of images that are tried before the settings are refused.
IMAGES = 2000
# Level of a white pixel.
WHITE = 255
# Smallest contrast: it leaves 13 levels between black and a dash, enough for antialiased edges.
FAINTEST = 0.05
# Number of dashes from which on a path is long enough to have a twin with equal first and last dashes.
FORKED = 5
# The published images: side in pixels, length of path per dash in pixels, and number of dashes of all distractors.
PUBLISHED_SIDE, PUBLISHED_UNIT, PUBLISHED_INK = 150, 4.0, 90
# Number of pixels by which antialiasing and rounding narrow the space between two paths.
BETWEEN = 3.3


@checked_class
@dataclass(frozen=True)
class Strokes:
    """Sizes of the dashes, paths and markers of an image, in pixels.

    Attributes:
        dash: length of a dash.
        gap: length of the gap between two dashes of a path.
        thickness: thickness of a dash.
        spacing: smallest distance between points of different paths.
        radius: radius of a marker.
        bend: largest turn from one dash to the next, in radians.
        margin: width of the border that is kept free.

    Raises:
        ValueError: for sizes with which the image would be ambiguous: a spacing below `gap` + 2 `radius` + 3.3, a
            marker radius below 1.5 times the thickness, a thickness below one pixel, a gap of at most half the
            thickness, a dash that is not positive or is longer than the spacing, or a margin below the radius.
    """

    dash: float = 2.5
    gap: float = 1.5
    thickness: float = 1.0
    spacing: float = 8.0
    radius: float = 1.5
    bend: float = 0.8
    margin: float = 3.0

    def __post_init__(self) -> None:
        """Refuse sizes with which no one could tell the paths apart.

        Raises:
            ValueError: as in the description of the class.
        """
        for name, value in vars(self).items():
            arguments.number(name, value)
        least = self.gap + 2 * self.radius + BETWEEN
        if self.spacing < least:
            raise ValueError(
                f"spacing is {self.spacing}; for paths with a gap of {self.gap} and markers of a radius of "
                f"{self.radius} to be told apart it must be {least:g} at least"
            )
        if self.thickness < 1 or self.radius < 1.5 * self.thickness:
            raise ValueError(
                f"thickness is {self.thickness} and radius {self.radius}; a dash is one pixel thick at least, and a "
                f"marker's radius 1.5 times that"
            )
        if self.gap <= self.thickness / 2 or not 0 < self.dash <= self.spacing or self.margin < self.radius:
            raise ValueError(
                f"{self}: a gap is over half a thickness, a dash above 0 and no longer than the spacing, and a margin "
                f"at least a marker's radius"
            )

    @property
    def unit(self) -> float:
        """Return the length of path per dash: a dash and a gap, in pixels."""
        return self.dash + self.gap


# Sizes by the side of the image. For 150 pixels they are the published ones at half their scale.
STROKES = {
    150: Strokes(),
    64: Strokes(dash=2.0, gap=1.5),
    32: Strokes(dash=2.5, gap=1.0, spacing=7.5, margin=2.0),
}


@dataclass(frozen=True)
class Pathfinder:
    """Images of paths, and whether the two markers of each are on one path.

    Attributes:
        images: (count, side, side) uint8 grey levels, from 0 for black to 255 for white.
        labels: (count,) 1 if both markers are on one path, else 0.
        markers: (count, 2, 2) positions of the centres of the markers, in pixels; axes: image, marker, (row, column).
        rejected: share, among all drawings that were begun, of those that were given up because a path found no room.
        distractors: mean number of short paths (distractors) that were drawn per image.
    """

    images: UInt8[Tensor, "count side side"]
    labels: Int64[Tensor, "count"]
    markers: Tensor
    rejected: float
    distractors: float

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.labels)


@checked
def pathfinder(
    count: int,
    length: int = 9,
    side: int = 150,
    *,
    strokes: Strokes | None = None,
    distractors: int | None = None,
    contrast: float = 1.0,
    seed: int = 0,
) -> Pathfinder:
    """Return images of two long dashed paths among short ones, with markers on two ends: of one path, or of both.

    Neither the distance of the markers nor the ink near them tells the label, because of how the paths are drawn. A
    path and its twin share their first dashes and then part. The path is drawn whole; of the twin only the last dashes
    are drawn, and the second path continues from these. One marker is where the path and its twin begin. The other
    marker is at the end of the path, for label 1, or of the twin, for label 0. Both ends look alike for
    (`length` - 3) // 2 dashes, so that only the dashes between them tell the label. (Paths of fewer than 5 dashes are
    too short for this.)

    Every image depends only on the seed and its own number: the first ten of a thousand images are the ten images of a
    call for ten.

    Args:
        count: number of images.
        length: number of dashes of either long path; the published values are 3, 5, 7 and 9.
        side: height and width of the images, in pixels.
        strokes: sizes of dashes, paths and markers; None takes those for 150, 64 or 32 pixels, the largest that is not
            above `side`.
        distractors: largest number of short paths, with a third as many dashes; fewer are drawn if there is no room.
            None takes 90 / `length` * (`side` / 150 * 4 / u)^2, rounded, where u is the length of a dash and a gap in
            pixels: 90 / `length` for images of 150 pixels and the strokes made for them.
        contrast: level of dashes and markers, as a share of white, from 0.05 to 1.
        seed: seed of the images.

    Returns:
        A `Pathfinder` with the images, their labels (each 0 or 1 with equal chances) and the markers.

    Raises:
        ValueError: for numbers out of range, or settings that leave no room for the paths.

    Source: Linsley, Kim, Veerabadran, Serre (NeurIPS 2018), at the sizes of Razin, Maman, Cohen (ICML 2022); the
        generator is our own.

    >>> import ranklens as rl
    >>> found = rl.data.pathfinder(20, length=5, side=64)
    >>> found.images.shape, sorted(set(found.labels.tolist()))
    (torch.Size([20, 64, 64]), [0, 1])
    >>> bool((rl.data.trace(found.images) == found.labels).all())  # a solver that sees only pixels
    True
    """
    if count < 1 or length < 1:
        raise ValueError(f"count is {count} and length {length}; make at least one image of one dash")
    if not FAINTEST <= contrast <= 1:
        raise ValueError(f"contrast is {contrast}; it is at least {FAINTEST}, to leave shades of grey, and at most 1")
    strokes = strokes_for(side) if strokes is None else strokes
    if distractors is None:
        area = (side / PUBLISHED_SIDE * PUBLISHED_UNIT / strokes.unit) ** 2
        distractors = round(PUBLISHED_INK / length * area)
    longest = length * strokes.unit - strokes.gap
    if longest < strokes.spacing:
        raise ValueError(
            f"length is {length}; the markers on such a path are at most {longest:g} pixels apart, less than the "
            f"spacing of paths, {strokes.spacing:g}: take longer paths or other strokes"
        )
    if distractors < 0:
        raise ValueError(f"distractors is {distractors}; it is a number of paths, 0 or more")
    images = np.zeros((count, side, side), dtype=np.uint8)
    labels, markers = np.zeros(count, dtype=np.int64), np.zeros((count, 2, 2))
    begun, short = 0, 0
    for n in range(count):
        rng = Random(seeds.derive(seed, f"pathfinder {n}"))
        labels[n] = rng.random() < 0.5
        (one, other), rest, tries = _paths(length, distractors, side, strokes, rng)
        markers[n] = one[0][0], one[-1][1] if labels[n] else other[0][0]
        begun, short = begun + tries, short + len(rest)
        images[n] = _ink([one, other, *rest], markers[n], side, strokes, contrast)
    return Pathfinder(
        torch.from_numpy(images), torch.from_numpy(labels), torch.from_numpy(markers), 1 - count / begun, short / count
    )


def _paths(
    length: int, distractors: int, side: int, strokes: Strokes, rng: Random
) -> tuple[tuple[Path, Path], list[Path], int]:
    """Return the two long paths and the distractors of an image, and the number of images that were begun for it.

    Raises:
        ValueError: if no image has room for the long paths.
    """
    for tries in range(1, IMAGES + 1):
        drawn = _Canvas(side, strokes, rng).paths(length, distractors)
        if drawn is not None:
            return *drawn, tries
    raise ValueError(
        f"no image of {side} x {side} has room for two paths of {length} dashes in {IMAGES} tries; take "
        f"shorter paths, a larger image or other strokes"
    )


def strokes_for(side: int) -> Strokes:
    """Return the sizes of dashes, paths and markers for images of a given side.

    Args:
        side: height and width of the images, in pixels.

    Returns:
        The sizes made for images of 150, 64 or 32 pixels, whichever is the largest that is not above `side`.

    Raises:
        ValueError: for a side below 32.
    """
    fitting = [known for known in STROKES if known <= side]
    if not fitting:
        raise ValueError(f"side is {side}; for less than {min(STROKES)} pixels pass strokes")
    return STROKES[max(fitting)]


class _Canvas:
    """The room that is left in an image: for each row an integer, with a bit for every pixel too near to a path."""

    def __init__(self, side: int, strokes: Strokes, rng: Random) -> None:
        self.side, self.strokes, self.rng = side, strokes, rng
        self.taken = [0] * side
        reach = math.ceil(strokes.spacing)
        self.disc = [
            (dy, math.isqrt(int(strokes.spacing**2 - dy * dy)))
            for dy in range(-reach, reach + 1)
            if dy * dy <= strokes.spacing**2
        ]

    def paths(self, length: int, distractors: int) -> tuple[tuple[Path, Path], list[Path]] | None:
        """Return two long paths and the distractors that fit, or None if there is no room for the long paths."""
        pair = self._opposite(length) if length < FORKED else self._fork(length)
        if pair is None:
            return None
        for path in pair:
            self._take(path)
        rest = []
        for _ in range(distractors):
            found = self._tried(max(length // 3, 1))
            if found is None:
                break
            self._take(found)
            rest.append(found)
        return pair, rest

    def _fork(self, length: int) -> tuple[Path, Path] | None:
        """Return a path, and a path that continues from the last dashes of its twin, or None if they find no room."""
        alike = _alike(length)
        for _ in range(PATHS):
            begun = self._grown(alike)
            one, twin = (self._grown(length, begun) if begun else None for _ in range(2))
            if one is None or twin is None:
                continue
            if self.rng.random() < 0.5:
                one, twin = twin, one
            other, ours = self._onward(twin, one), self._onward(one, twin)
            if other is not None and ours is not None:  # either of the two could have been drawn whole
                return one, other
        return None

    def _onward(self, way: Path, other: Path) -> Path | None:
        """Return a path that begins with the last dashes of `way`, backwards, and keeps its distance from `other`."""
        end = [(b, a) for a, b in reversed(way[-_alike(len(way)) :])]
        if not self._apart(end, other):
            return None
        with self._beside(other):
            return self._tried(len(way), end)

    def _opposite(self, length: int) -> tuple[Path, Path] | None:
        """Return a path, and another whose beginning is as far from the path's beginning as the path's end is."""
        one = self._grown(length)
        if one is None:
            return None
        (y, x), distance = one[0][0], math.dist(one[0][0], one[-1][1])
        angles = (2 * math.pi * self.rng.random() for _ in range(PATHS))
        points = ((y + distance * math.sin(angle), x + distance * math.cos(angle)) for angle in angles)
        with self._beside(one):
            other = next(filter(None, (self._grown(length, at=point) for point in points)), None)
        return None if other is None else (one, other)

    @contextmanager
    def _beside(self, path: Path) -> Iterator[None]:
        """Take the room of a path within this context."""
        before = list(self.taken)
        self._take(path)
        yield
        self.taken = before

    def _tried(self, length: int, begun: Path | None = None) -> Path | None:
        """Return the first path that finds room within `PATHS` tries, or None."""
        return next(filter(None, (self._grown(length, begun) for _ in range(PATHS))), None)

    def _apart(self, one: Path, other: Path) -> bool:
        """Return whether two paths keep the spacing from each other."""
        return not any(self._meets(point, list(_points(other))) for point in _points(one))

    def _grown(self, length: int, begun: Path | None = None, at: Point | None = None) -> Path | None:
        """Return a path that continues given dashes, or begins at a point or anywhere, or None if it finds no room."""
        s, path = self.strokes, list(begun or ())
        if path:
            (y, x), at = path[-1]
            heading = math.atan2(at[0] - y, at[1] - x)
        else:
            at = self._anywhere() if at is None else at
            heading = 2 * math.pi * self.rng.random()
            if not self._free(at):
                return None
        own = [point for dash in path for point in _points([dash])[1:]]
        for k in range(len(path), length):
            for _ in range(TURNS):
                turned = heading + (s.bend * (2 * self.rng.random() - 1) if k else 0.0)
                down, across = math.sin(turned), math.cos(turned)
                start = (at[0] + s.gap * down, at[1] + s.gap * across) if k else at
                end = start[0] + s.dash * down, start[1] + s.dash * across
                middle = (start[0] + end[0]) / 2, (start[1] + end[1]) / 2
                if self._free(end) and self._free(middle) and not self._meets(end, own[:-4]):
                    break
            else:
                return None
            path.append((start, end))
            own += [middle, end]
            at, heading = end, turned
        return path

    def _anywhere(self) -> Point:
        """Return a random point inside the margins."""
        margin = self.strokes.margin
        width = self.side - 1 - 2 * margin
        return margin + width * self.rng.random(), margin + width * self.rng.random()

    def _free(self, point: Point) -> bool:
        """Return whether a point is inside the margins and far enough from all paths drawn so far."""
        low, high = self.strokes.margin, self.side - 1 - self.strokes.margin
        y, x = point
        return low <= y <= high and low <= x <= high and not self.taken[round(y)] >> round(x) & 1

    def _meets(self, point: Point, own: list[Point]) -> bool:
        """Return whether a point is nearer than the spacing to any of the given points."""
        least = self.strokes.spacing**2
        return any((point[0] - y) ** 2 + (point[1] - x) ** 2 < least for y, x in own)

    def _take(self, path: Path) -> None:
        """Mark all pixels nearer than the spacing to a path as taken."""
        whole = (1 << self.side) - 1
        for y, x in _points(path):
            row, column = round(y), round(x)
            for dy, half in self.disc:
                if 0 <= row + dy < self.side:
                    span = (1 << (2 * half + 1)) - 1
                    shift = column - half
                    self.taken[row + dy] |= (span << shift if shift >= 0 else span >> -shift) & whole


def _alike(length: int) -> int:
    """Return the number of dashes at either end that a path of this length and its twin have alike."""
    return max((length - 3) // 2, 1)  # three dashes in the middle, or four, are enough to part


def _points(path: Path) -> list[Point]:
    """Return beginning, middle and end of every dash."""
    return [p for a, b in path for p in (a, ((a[0] + b[0]) / 2, (a[1] + b[1]) / 2), b)]


def _ink(
    paths: list[Path], markers: NDArray[np.float64], side: int, strokes: Strokes, contrast: float
) -> NDArray[np.uint8]:
    """Return an image of dashes and markers: lines with round ends, whose edges are one pixel wide."""
    ends = np.array([dash for path in paths for dash in path] + [(m, m) for m in markers.tolist()])
    half = np.array([strokes.thickness / 2] * (len(ends) - 2) + [strokes.radius] * 2)[:, None, None]
    reach = math.ceil(strokes.dash / 2 + max(strokes.radius, strokes.thickness) + 1)
    centre = np.rint(ends.mean(axis=1)).astype(np.int64)
    window = np.arange(-reach, reach + 1)
    y = (centre[:, :1] + window)[:, :, None]
    x = (centre[:, 1:] + window)[:, None, :]
    start, along = ends[:, 0], ends[:, 1] - ends[:, 0]
    square = (along**2).sum(axis=1)
    dy, dx = y - start[:, 0, None, None], x - start[:, 1, None, None]
    share = dy * along[:, 0, None, None] + dx * along[:, 1, None, None]
    share = np.clip(share / np.where(square > 0, square, 1.0)[:, None, None], 0.0, 1.0)
    distance = np.sqrt((dy - share * along[:, 0, None, None]) ** 2 + (dx - share * along[:, 1, None, None]) ** 2)
    ink = np.rint(WHITE * contrast * np.clip(half + 0.5 - distance, 0.0, 1.0)).astype(np.uint8)
    image = np.zeros((side + 2 * reach) ** 2, dtype=np.uint8)  # with a border for windows that reach over the edge
    flat = (y + reach) * (side + 2 * reach) + x + reach
    np.maximum.at(image, flat.ravel(), ink.ravel())
    return image.reshape(side + 2 * reach, -1)[reach:-reach, reach:-reach]
