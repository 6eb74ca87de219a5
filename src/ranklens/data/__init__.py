"""Data sets: images and ratings that are checked by their content, generated images, and the entanglement of data."""

from ranklens.data.arrangement import arrange, correlations
from ranklens.data.entanglement import canonical_entanglement, data_tensor, entanglement, unreachable
from ranklens.data.graphs import VertexTask, vertex_task
from ranklens.data.install import fetch, folder
from ranklens.data.pathfinder import Pathfinder, Strokes, pathfinder
from ranklens.data.pictures import Images, Labelled, images
from ranklens.data.ratings import Ratings, ratings
from ranklens.data.same_class import SameClass, same_class
from ranklens.data.shapes import Shapes, shapes
from ranklens.data.tracing import trace

__all__ = [
    "Images",
    "Labelled",
    "Pathfinder",
    "Ratings",
    "SameClass",
    "Shapes",
    "Strokes",
    "VertexTask",
    "arrange",
    "canonical_entanglement",
    "correlations",
    "data_tensor",
    "entanglement",
    "fetch",
    "folder",
    "images",
    "pathfinder",
    "ratings",
    "same_class",
    "shapes",
    "trace",
    "unreachable",
    "vertex_task",
]
