"""Fill in the missing pixels of a photograph by low rank, beside methods that use the neighbourhood of a pixel.

    python benchmarks/images.py [--size 64]

The photograph is china.jpg of scikit-learn's sample images, reduced in size. 70% of the pixels are missing
at random, or all pixels under a text. Quality is the peak signal-to-noise ratio (PSNR) over the missing pixels, in
decibels: 10 log10(1 / mean squared error) for values from 0 to 1.
"""

import argparse
import time
import warnings
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw
from sklearn.datasets import load_sample_image
from sklearn.experimental import enable_iterative_imputer  # noqa: F401  (makes IterativeImputer importable)
from sklearn.impute import IterativeImputer, KNNImputer

import ranklens as rl

Array = np.ndarray
# Side of the patches, in pixels, and the distance between neighbouring patches.
PATCH, STRIDE = 8, 4


def photograph(size: int) -> Array:
    """Return the photograph, (size, size, 3) values from 0 to 1."""
    whole = Image.fromarray(load_sample_image("china.jpg")).crop((100, 20, 500, 420))
    return np.asarray(whole.resize((size, size), Image.Resampling.LANCZOS)) / 255


def masks(size: int) -> dict[str, Array]:
    """Return for every kind of hole which pixels are observed."""
    text = Image.new("L", (size, size), 255)
    draw = ImageDraw.Draw(text)
    for line in range(0, size, 12):
        draw.text((1, line), "low rank, holes", fill=0)
    return {"70% at random": np.random.default_rng(0).random((size, size)) > 0.7, "text": np.asarray(text) > 128}


def per_channel(method: Callable[[Array], Array]) -> Callable[[Array], Array]:
    """Return a method for images that applies one for matrices with holes to every channel."""

    def run(image: Array) -> Array:
        return np.stack([method(image[:, :, channel]) for channel in range(3)], axis=2)

    return run


def channels(X: Array) -> Array:
    """Return a channel completed as a matrix."""
    return rl.MatrixCompleter().fit_transform(X)


def cube(image: Array) -> Array:
    """Return an image completed as a tensor of rows, columns and channels."""
    there = ~np.isnan(image)
    completer = rl.TensorCompleter(image.shape, width=32).fit(np.argwhere(there), image[there])
    return completer.predict(np.argwhere(np.ones(image.shape))).reshape(image.shape)


def patches(image: Array) -> Array:
    """Return an image completed as a matrix with a row per overlapping patch and a column per pixel in it."""
    size = len(image)
    corners = [(i, j) for i in range(0, size - PATCH + 1, STRIDE) for j in range(0, size - PATCH + 1, STRIDE)]
    X = np.stack([image[i : i + PATCH, j : j + PATCH].ravel() for i, j in corners])
    filled = rl.MatrixCompleter(biases=True).fit(X).predict(X)
    total, count = np.zeros_like(image), np.zeros_like(image)
    for (i, j), row in zip(corners, filled, strict=True):
        total[i : i + PATCH, j : j + PATCH] += row.reshape(PATCH, PATCH, 3)
        count[i : i + PATCH, j : j + PATCH] += 1
    return total / count


def pixel_tree(X: Array) -> Array:
    """Return a channel completed by a hierarchical factorization of its bits: neighbours agree in the first modes.

    The bits of the row and of the column are interleaved, coarse ones first, and grouped into four modes.
    """
    size = len(X)
    bits = int(np.log2(size))
    order = [axis for k in range(bits) for axis in (k, bits + k)]
    whole = X.reshape((2,) * (2 * bits)).transpose(order)
    sizes = [2 ** len(part) for part in np.array_split(np.arange(2 * bits), 4)]
    tensor = whole.reshape(sizes)
    there = ~np.isnan(tensor)
    completer = rl.TensorCompleter(sizes, "hierarchical", width=16).fit(np.argwhere(there), tensor[there])
    found = completer.predict(np.argwhere(np.ones(sizes))).reshape((2,) * (2 * bits))
    return found.transpose(np.argsort(order)).reshape(size, size)


def biharmonic(image: Array) -> Array:
    """Return an image completed by scikit-image's biharmonic inpainting."""
    from skimage.restoration import inpaint_biharmonic

    return inpaint_biharmonic(np.nan_to_num(image), np.isnan(image[:, :, 0]), channel_axis=-1)


METHODS: dict[str, Callable[[Array], Array]] = {
    "biharmonic inpainting (scikit-image)": biharmonic,
    "patches, MatrixCompleter": patches,
    "channels, MatrixCompleter": per_channel(channels),
    "rows x columns x channels, TensorCompleter": cube,
    "pixel tree, hierarchical TensorCompleter": per_channel(pixel_tree),
    "IterativeImputer": per_channel(lambda X: IterativeImputer(max_iter=5, random_state=0).fit_transform(X)),
    "KNNImputer": per_channel(lambda X: KNNImputer().fit_transform(X)),
    "mean of the channel": per_channel(lambda X: np.where(np.isnan(X), np.nanmean(X), X)),
}


def main() -> None:
    """Print a table of qualities."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=64)
    size = parser.parse_args().size
    truth, holes = photograph(size), masks(size)
    print(f"| method | {' | '.join(holes)} | processor seconds |\n|---|{'---:|' * (len(holes) + 1)}")
    for name, method in METHODS.items():
        found, begun = [], time.process_time()
        for there in holes.values():
            image = np.where(there[:, :, None], truth, np.nan)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                filled = np.clip(method(image), 0, 1)
            found.append(10 * np.log10(1 / np.mean((filled - truth)[~there] ** 2)))
        cells = " | ".join(f"{decibels:.1f}" for decibels in found)
        print(f"| {name} | {cells} | {time.process_time() - begun:.0f} |", flush=True)


if __name__ == "__main__":
    main()
