"""The picture that opens the report: components of three factorizations that leave zero one after another."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import xarray as xr
from markupsafe import Markup
from numpy.typing import NDArray

from ranklens import drawing
from ranklens.studies.kit import onsets, records

# Width and height of a drawing, in units of its own; the page stretches it.
WIDTH, HEIGHT = 300.0, 120.0
# Points of a curve: one for every unit of the width.
POINTS = 300
# A curve counts as learned, and gets a colour, if it ends above this share of the largest.
LEARNED = 0.05


@dataclass(frozen=True)
class Kind:
    """One of the three factorizations.

    Attributes:
        study: the study whose record is drawn.
        variable: the variable of the record that holds the sizes of the components.
        title: what is factorized.
        quantity: what its components are called.
        letter: the letter of the exponent of the law, which is `letter` in 2 - 2 / letter.
        letter_is: what the letter counts.
    """

    study: str
    variable: str
    title: str
    quantity: str
    letter: str
    letter_is: str


KINDS = (
    Kind("matrix_dynamics", "singular", "Matrix", "singular values", "L", "matrices in the product"),
    Kind("tensor_dynamics", "component", "Tensor", "components", "N", "indices of the tensor"),
    Kind(
        "hierarchical_dynamics",
        "spectrum",
        "Tree of tensors",
        "singular values at the root",
        "K",
        "parts of a component",
    ),
)


@dataclass(frozen=True)
class Curves:
    """A drawing of the opening picture.

    Attributes:
        kind: the factorization.
        svg: the drawing.
        learned: number of components that have left zero at the end.
        rest: number of the others that are drawn.
        label: a description in words.
        colours: its colours, as "#rrggbb".
    """

    kind: Kind
    svg: Markup
    learned: int
    rest: int
    label: str
    colours: frozenset[str]


def curves(found: Mapping[str, xr.Dataset]) -> list[Curves]:
    """Return the drawings of those of the three factorizations whose record is there.

    Args:
        found: records by the name of their study.
    """
    return [_draw(kind, found[kind.study]) for kind in KINDS if kind.study in found]


def _draw(kind: Kind, record: xr.Dataset) -> Curves:
    """Return the drawing of one factorization: the first seed's sizes along the arc length of its trajectory."""
    run = records.runs(record)[0]
    sizes = np.asarray(run[kind.variable].values, dtype=np.float64)
    at = onsets.distance(run)
    grid = np.linspace(at[0], at[-1], POINTS)
    heights = np.stack([np.interp(grid, at, column) for column in sizes.T])
    heights = heights[np.argsort(-heights[:, -1])]
    top = heights.max()
    learned = int((heights[:, -1] > LEARNED * heights[:, -1].max()).sum())
    parts = [_path(heights[k], top, "#999999", 0) for k in range(learned, len(heights))]
    parts += [_path(heights[k], top, drawing.COLOURS[k % drawing.FEW], k) for k in range(learned)]
    label = (
        f"{kind.title} factorization: {learned} {kind.quantity} rise from zero one after another while it is trained; "
        f"{len(heights) - learned} others stay at zero."
    )
    return Curves(
        kind=kind,
        svg=Markup(f'<svg viewBox="0 0 {WIDTH:g} {HEIGHT:g}" preserveAspectRatio="none" aria-hidden="true">')
        + Markup("").join(parts)
        + Markup("</svg>"),
        learned=learned,
        rest=len(heights) - learned,
        label=label,
        colours=frozenset({"#999999", *drawing.COLOURS}),
    )


def _path(heights: NDArray[np.float64], top: float, colour: str, order: int) -> Markup:
    """Return a curve as an element of the drawing.

    Args:
        heights: (points,) sizes of one component.
        top: the size that is drawn at the upper end.
        colour: its colour.
        order: its number among the curves, which tells a style sheet when it appears.
    """
    x = np.linspace(0, WIDTH, len(heights))
    y = HEIGHT - 2 - (HEIGHT - 6) * heights / top
    points = " ".join(f"{a:.0f},{b:.1f}" for a, b in zip(x, y, strict=True))
    return Markup(f'<polyline points="{points}" style="stroke: var(--c-{colour[1:]}); --order: {order}"/>')
