"""Panels of a figure as separate SVG elements, so that a narrow page can put one below the other.

Text that a page can set better than an SVG is left out of the drawing and returned beside it: the title, and the
legend, which would cover lines on a small screen. Colours become CSS variables, so that a page can replace them.
"""

import io
import json
import re
from dataclasses import dataclass

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.container import Container
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.lines import Line2D
from matplotlib.text import Text
from matplotlib.transforms import Bbox
from numpy.typing import NDArray

from ranklens.drawing.panels import STYLE

# Points per inch of an SVG that matplotlib writes.
POINTS = 72
# Space around a panel, in inches, so that strokes at its border are not cut.
PAD = 0.03
# Decimal places of coordinates, in points. A hundredth of a point is far below a pixel.
PLACES = 2
# Decades that a logarithmic axis must span before a hint explains it.
FEW_DECADES = 1.0

_NUMBER = re.compile(r"-?\d+\.\d{3,}")
_COLOUR = re.compile(r"#[0-9a-f]{6}\b")
_STYLE = re.compile(r' style="([^"]*)"')
_USES = re.compile(r"<g((?: [\w-]+=\"[^\"]*\")*)>((?:<use [^>]*/>)+)</g>")


@dataclass(frozen=True)
class Series:
    """A named group of lines, markers or bars of a panel.

    Attributes:
        name: its name in the legend.
        ids: ids of its elements in the SVG.
        swatch: a small SVG element that shows its colour, dashes and marker.
    """

    name: str
    ids: tuple[str, ...]
    swatch: Markup


@dataclass(frozen=True)
class Panel:
    """One panel of a figure.

    Attributes:
        title: title of the panel, in plain text.
        x, y: names of the two axes.
        svg: the drawing, an SVG element without title and legend.
        series: what the legend names, in its order; empty without a legend.
        hint: a sentence that explains logarithmic axes; "" without one.
        frame: JSON with the place of the axes in the drawing and their scales, from which a script computes values; an
            empty string if an axis has another scale, or categories.
        colours: the colours of the drawing, as "#rrggbb".
    """

    title: str
    x: str
    y: str
    svg: Markup
    series: tuple[Series, ...]
    hint: str
    frame: str
    colours: frozenset[str]


def split(figure: Figure, name: str) -> list[Panel]:
    """Return the visible panels of a figure, in its order; the figure is left as it was.

    Args:
        figure: the figure. It is drawn once, and the drawing is cut into panels. Its layout is computed before, unless
            `settle` has done so.
        name: a prefix of all ids in the drawings, by which they differ from those of other figures in a page.
    """
    settle(figure)
    shown = [axes for axes in figure.axes if axes.get_visible()]
    groups = [_groups(axes) for axes in shown]
    marked: dict[str, Artist] = {f"{name}-{k}": axes for k, axes in enumerate(shown)}
    for k, named in enumerate(groups):
        marked |= {id_: artist for _, artists in named for id_, artist in _ids(artists, f"{name}-{k}").items()}
    hidden = [artist for axes in shown for artist in _set_by_page(axes)]
    before = {id_: artist.get_gid() for id_, artist in marked.items()}
    for artist in hidden:
        artist.set_visible(False)
    for id_, artist in marked.items():
        artist.set_gid(id_)
    try:
        text = _write(figure, name, set(marked))
        boxes = [_box(axes, figure) for axes in shown]
    finally:
        for id_, artist in marked.items():
            artist.set_gid(before[id_])
        for artist in hidden:
            artist.set_visible(True)
    size = figure.get_size_inches()
    return [
        _panel(axes, named, _cut(text, f"{name}-{k}", box), f"{name}-{k}", size)
        for k, (axes, named, box) in enumerate(zip(shown, groups, boxes, strict=True))
    ]


def settle(figure: Figure) -> None:
    """Compute the layout of a figure and keep it, so that it is not computed again each time the figure is drawn."""
    if figure.get_layout_engine() is not None:
        figure.draw_without_rendering()
        figure.set_layout_engine(None)


def _set_by_page(axes: Axes) -> list[Artist]:
    """Return the artists of a panel that the page sets as text: its visible titles and legends."""
    titles = {axes.get_title(loc=loc) for loc in ("left", "center", "right")} - {""}
    return [
        artist
        for artist in axes.get_children()
        if artist.get_visible()
        and (isinstance(artist, Legend) or (isinstance(artist, Text) and artist.get_text() in titles))
    ]


def _box(axes: Axes, figure: Figure) -> Bbox:
    """Return the part of a drawing that a panel takes, in points from the lower left corner."""
    box = axes.get_tightbbox()
    assert box is not None, "a visible panel has a bounding box"
    return Bbox(box.get_points() / figure.dpi).padded(PAD)


def _panel(axes: Axes, named: list[tuple[str, list[Artist]]], svg: str, name: str, size: NDArray[np.float64]) -> Panel:
    """Return one panel.

    Args:
        axes: the panel in the figure.
        named: its named artists, by `_groups`.
        svg: its drawing.
        name: prefix of the ids in the drawing.
        size: width and height of the figure, in inches.
    """
    series = [(label, tuple(_ids(artists, name))) for label, artists in named]
    return Panel(
        title=axes.get_title(loc="left") or axes.get_title(),
        x=axes.get_xlabel(),
        y=axes.get_ylabel(),
        svg=Markup(svg),
        series=tuple(Series(label, ids, _swatch(svg, ids)) for label, ids in series),
        hint=_hint(axes),
        frame=_frame(axes, size),
        colours=frozenset(f"#{found}" for found in re.findall(r"--c-([0-9a-f]{6})", svg)),
    )


def _groups(axes: Axes) -> list[tuple[str, list[Artist]]]:
    """Return the named artists of a panel, each with the unnamed ones that look like it, as pairs (name, artists).

    Where several seeds share a colour, only one of them has a name.
    """
    handles, labels = axes.get_legend_handles_labels()
    unnamed = [
        artist
        for artist in axes.get_children()
        if isinstance(artist, Line2D | PathCollection) and str(artist.get_label()).startswith("_")
    ]
    found: dict[str, list[Artist]] = {}
    for handle, label in zip(handles, labels, strict=True):
        members = list(handle.get_children()) if isinstance(handle, Container) else [handle]
        looks = {_look(member) for member in members}
        found.setdefault(label, []).extend([*members, *(each for each in unnamed if _look(each) in looks)])
    lines = [each for each in axes.lines if len(np.atleast_1d(each.get_xdata())) > 2]
    if not labels and len(lines) == 1:
        found[axes.get_ylabel()] = list(lines)
    legend = axes.get_legend()
    order = [text.get_text() for text in legend.get_texts()] if legend is not None else []
    return sorted(found.items(), key=lambda pair: order.index(pair[0]) if pair[0] in order else len(order))


def _look(artist: Artist) -> tuple[object, ...]:
    """Return what a reader recognizes an artist by; artists other than lines and markers are like no other."""
    if isinstance(artist, Line2D):
        return (str(artist.get_color()), str(artist.get_linestyle()), str(artist.get_marker()))
    return (id(artist),)


def _ids(artists: list[Artist], name: str) -> dict[str, Artist]:
    """Return the artists by the ids that they get in the drawing of the panel `name`."""
    found = {}
    for artist in artists:
        axes = artist.axes
        if axes is not None and artist in (children := axes.get_children()):
            found[f"{name}-a{children.index(artist)}"] = artist
    return found


def _write(figure: Figure, name: str, kept: set[str]) -> str:
    """Return the SVG of a figure, with unique ids and with colours and font as variables.

    Args:
        figure: the figure.
        name: prefix of the ids.
        kept: ids that are kept as they are.
    """
    buffer = io.StringIO()
    with matplotlib.rc_context(STYLE):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", buffer.getvalue(), flags=re.DOTALL)
    text = _NUMBER.sub(lambda found: f"{float(found[0]):.{PLACES}f}".rstrip("0").rstrip("."), text)
    text = re.sub(r"\s+", " ", text).replace("> <", "><").replace("xlink:href", "href")
    referred = {id_: f"{name}-{k}" for k, id_ in enumerate(dict.fromkeys(re.findall(r"#([\w-]+)[)\"]", text)))}
    text = re.sub(
        r' id="([^"]+)"',
        lambda found: found[0] if found[1] in kept else f' id="{referred[found[1]]}r"' if found[1] in referred else "",
        text,
    )
    text = re.sub(r'(url\(#|href="#)([\w-]+)', lambda found: f"{found[1]}{referred[found[2]]}r", text)
    text = text.replace("'DejaVu Sans'", "var(--figure-font)")
    text = _COLOUR.sub(lambda found: f"var(--c-{found[0][1:]})", text)
    return _USES.sub(_hoist, text)


def _hoist(found: re.Match[str]) -> str:
    """Return a group of markers with their common style written once, or the group as it is if styles differ."""
    styles = set(_STYLE.findall(found[2]))
    return f'<g{found[1]} style="{styles.pop()}">{_STYLE.sub("", found[2])}</g>' if len(styles) == 1 else found[0]


def _cut(text: str, name: str, box: Bbox) -> str:
    """Return the panel with the id `name` of a drawing as an SVG element of its own, with the definitions it refers to.

    Args:
        text: the drawing of the whole figure.
        name: id of the panel's group.
        box: the part that the panel takes, in inches from the lower left corner of the figure.
    """
    at = text.index(f'<g id="{name}"')
    body = text[at : _end(text, at)]
    needed = set(re.findall(r"url\(#([^)]+)\)", body))
    parts = re.findall(r'(<(clipPath|pattern) id="([^"]+)".*?</\2>)', text)
    definitions = "".join(part for part, _, id_ in parts if id_ in needed)
    height = float(re.search(r'viewBox="0 0 [\d.]+ ([\d.]+)"', text)[1])  # type: ignore[index]
    corner = box.x0 * POINTS, height - box.y1 * POINTS
    place = " ".join(f"{value:.{PLACES}f}" for value in (*corner, box.width * POINTS, box.height * POINTS))
    return f'<svg viewBox="{place}" aria-hidden="true"><defs>{definitions}</defs>{body}</svg>'


def _swatch(text: str, ids: tuple[str, ...]) -> Markup:
    """Return a small SVG element with the colour, dashes and marker of a group of elements of a drawing."""
    for id_ in ids:
        at = text.find(f'<g id="{id_}"')
        if at < 0:
            continue
        inside = text[at : _end(text, at)]
        line = re.search(r'<path d="[^"]*"[^>]*?style="(fill: none; stroke(?!: none)[^"]*)"', inside)
        marker = re.search(r'<g[^>]* style="([^"]*)"><use href="([^"]+)"', inside)
        area = re.search(r'<path [^>]*?style="(fill: (?:var|url)[^"]*)"', inside)
        parts = []
        if line:
            parts.append(f'<path d="M1 5H27" style="{line[1]}"/>')
        if marker:
            parts.append(f'<use href="{marker[2]}" x="14" y="5" style="{marker[1]}"/>')
        if not parts and area:
            parts.append(f'<path d="M4 1H24V9H4z" style="{area[1]}"/>')
        if parts:
            return Markup(f'<svg class="swatch" viewBox="0 0 28 10" aria-hidden="true">{"".join(parts)}</svg>')
    return Markup("")


def _end(text: str, start: int) -> int:
    """Return the position behind the group of an SVG that begins at `start`."""
    depth = 0
    for found in re.finditer(r"<g\b[^>]*>|</g>", text[start:]):
        if found[0].endswith("/>"):  # a group of nothing, such as a line outside the axes
            continue
        depth += -1 if found[0] == "</g>" else 1
        if depth == 0:
            return start + found.end()
    return len(text)


def _hint(axes: Axes) -> str:
    """Return a sentence on the logarithmic axes that span more than a decade and whose labels do not say so, or ""."""
    hints = []
    for word, axis in (("upward", axes.yaxis), ("to the right", axes.xaxis)):
        low, high = sorted(axis.get_view_interval())
        wide = axis.get_scale() == "symlog" or (axis.get_scale() == "log" and high > low * 10**FEW_DECADES)
        if wide and not re.search(r"\blog\b|tick", axis.get_label_text()):
            hints.append(word)
    where = " and ".join(hints)
    return f"Logarithmic: equal steps {where} multiply by equal factors." if hints else ""


def _frame(axes: Axes, size: NDArray[np.float64]) -> str:
    """Return the place of the axes in the drawing, in points of the whole figure, and their scales, as JSON.

    Returns:
        The JSON; "" if values cannot be computed from places, because of another scale, categories, bars or an image.
    """
    scales = []
    for axis in (axes.xaxis, axes.yaxis):
        kind, (low, high) = axis.get_scale(), axis.get_view_interval()
        formatter = type(axis.get_major_formatter()).__name__
        if kind not in {"linear", "log", "symlog"} or formatter in {"FixedFormatter", "StrCategoryFormatter"}:
            return ""
        threshold = getattr(axis.get_transform(), "linthresh", 0.0)
        scales.append([kind, float(low), float(high), float(threshold)])
    if axes.images or axes.patches:
        return ""
    corners = axes.get_position().get_points() * size
    left, right = (x * POINTS for x in corners[:, 0])
    bottom, top = ((size[1] - y) * POINTS for y in corners[:, 1])
    place = [round(float(value), PLACES) for value in (left, top, right, bottom)]
    return json.dumps({"box": place, "x": scales[0], "y": scales[1]})
