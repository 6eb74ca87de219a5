"""Figures: what all of them share, and `plot`, which draws records, comparisons of records, and sweeps."""

from ranklens.drawing.panels import COLOURS as COLOURS
from ranklens.drawing.panels import FEW as FEW
from ranklens.drawing.panels import STYLES as STYLES
from ranklens.drawing.panels import THEORY as THEORY
from ranklens.drawing.panels import figure as figure
from ranklens.drawing.panels import label as label
from ranklens.drawing.panels import lines as lines
from ranklens.drawing.panels import note as note
from ranklens.drawing.panels import style as style
from ranklens.drawing.panels import svg as svg
from ranklens.drawing.records import plot as plot
