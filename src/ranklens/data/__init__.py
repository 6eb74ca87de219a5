"""Natural data: found in the data folder, or fetched into it, and checked by content."""

from ranklens.data.install import fetch, folder
from ranklens.data.pictures import Images, Labelled, images
from ranklens.data.scores import Ratings, ratings

__all__ = ["Images", "Labelled", "Ratings", "fetch", "folder", "images", "ratings"]
