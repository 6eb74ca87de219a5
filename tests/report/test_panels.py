import json
import re
from xml.etree import ElementTree

import numpy as np
import pytest

from ranklens import drawing
from ranklens.report import panels


@pytest.fixture(scope="module")
def made():
    """Two panels: curves of three seeds in two colours on logarithmic axes, and bars."""
    figure, (curves, bars) = drawing.figure(2)
    x = np.array([1.0, 10.0, 100.0])
    for k in range(3):
        curves.loglog(x, (k + 1) * x, label="both" if k == 0 else None, color="#0072b2", linestyle="--")
    curves.loglog(x, 9 * x, **drawing.THEORY, label="theory")
    curves.loglog(x, 2 * x, "o", color="#d55e00", label="<b>")
    drawing.label(curves, "Curves", "time", "size")
    curves.plot([], [], label="nothing")
    curves.legend()
    bars.bar(["a", "b"], [1, 2], label="some")
    bars.legend()
    return figure


@pytest.fixture(scope="module")
def found(made):
    return panels.split(made, "study")


def test_a_panel_has_its_texts_and_no_legend_or_title_in_its_drawing(found):
    curves, bars = found
    assert (curves.title, curves.x, curves.y) == ("Curves", "time", "size")
    for text in ("Curves", "both", "theory"):
        assert text not in curves.svg
    assert ">time<" in curves.svg
    assert ">time<" not in bars.svg
    assert re.match(r'<svg viewBox="[\d. -]+" aria-hidden="true">', curves.svg)


def test_the_figure_is_left_as_it_was(made, found):
    assert len(found) == 2
    curves = made.axes[0]
    assert curves.get_legend().get_visible()
    assert all(line.get_gid() is None for line in curves.lines)
    text = drawing.svg(made)
    assert "Curves" in text
    assert "theory" in text


def test_unnamed_lines_belong_to_the_named_one_that_looks_the_same(found):
    series = {each.name: each for each in found[0].series}
    assert list(series) == ["both", "theory", "<b>", "nothing"]
    assert [len(each.ids) for each in series.values()] == [3, 1, 1, 1]
    for each in series.values():
        assert all(f'<g id="{id_}"' in found[0].svg for id_ in each.ids)
    assert "stroke-dasharray" in series["both"].swatch
    assert "var(--c-0072b2)" in series["both"].swatch
    assert "<use" in series["<b>"].swatch


def test_ids_are_unique_and_complete_and_colours_are_variables(found):
    text = "".join(panel.svg for panel in found)
    ElementTree.fromstring(f"<all>{text}</all>")
    ids = re.findall(r' id="([^"]+)"', text)
    assert len(ids) == len(set(ids))
    referred = {*re.findall(r"url\(#([^)]+)\)", text), *re.findall(r'href="#([^"]+)"', text)}
    assert referred <= set(ids)
    assert not re.search(r"#[0-9a-f]{6}", text)
    assert {"#000000", "#0072b2", "#d55e00"} <= found[0].colours


def test_values_are_found_from_places(found):
    """The script of the page computes values so: a share of the axes' length, then the inverse of the scale."""
    curves, bars = found
    frame = json.loads(curves.frame)
    left, top, right, bottom = frame["box"]
    [group] = re.findall(rf'<g id="{curves.series[1].ids[0]}"><path d="([^"]+)"', curves.svg)
    places = np.array(re.findall(r"-?[\d.]+", group), dtype=float).reshape(-1, 2)
    shares = (places[:, 0] - left) / (right - left), (bottom - places[:, 1]) / (bottom - top)
    values = [
        low * (high / low) ** share for (_, low, high, _), share in zip((frame["x"], frame["y"]), shares, strict=True)
    ]
    points_of_a_hundredth = 1e-3
    assert np.allclose(values[1] / values[0], 9, rtol=points_of_a_hundredth)
    assert bars.frame == ""


def test_logarithmic_axes_are_explained(found):
    assert found[0].hint == "Logarithmic: equal steps upward and to the right multiply by equal factors."
    assert found[1].hint == ""


def test_a_label_that_explains_its_scale_needs_no_hint():
    figure, (axes,) = drawing.figure()
    axes.semilogy([1, 2], [1, 1e4])
    drawing.label(axes, "", "", "size (log scale)")
    assert panels.split(figure, "study")[0].hint == ""
