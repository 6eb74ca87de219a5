"""Natural data: found in the data folder, or fetched into it, and checked by content; and how entangled it is."""

from ranklens.data.arrangement import arrange, correlations
from ranklens.data.entanglement import canonical_entanglement, data_tensor, entanglement, unreachable
from ranklens.data.install import fetch, folder
from ranklens.data.pictures import Images, Labelled, images
from ranklens.data.scores import Ratings, ratings
from ranklens.data.shapes import Shapes, shapes

__all__ = [
    "Images",
    "Labelled",
    "Ratings",
    "Shapes",
    "arrange",
    "canonical_entanglement",
    "correlations",
    "data_tensor",
    "entanglement",
    "fetch",
    "folder",
    "images",
    "ratings",
    "shapes",
    "unreachable",
]
