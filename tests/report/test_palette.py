import pytest

from ranklens import drawing
from ranklens.report import palette


@pytest.mark.parametrize("colour", [*drawing.COLOURS, "#dddddd", "#7f7f7f"])
def test_dark_colours_stand_out(colour):
    dark = palette.dark(colour.lower())
    parts = [int(dark[k : k + 2], 16) / 255 for k in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    ratio = (0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2] + 0.05) / (0.0092 + 0.05)
    assert ratio >= (1.2 if colour == "#dddddd" else 4.4)  # lines of a grid are meant to be faint
