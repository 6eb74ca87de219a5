"""Readers of published file formats: IDX, binary CIFAR-10 and MovieLens ratings. None of them unpickles anything."""

import io
import math

import numpy as np
from numpy.typing import NDArray

# Third byte of an IDX file of unsigned bytes: the code of their type.
UNSIGNED_BYTES = 8
# Side of a CIFAR-10 image in pixels, its number of colour channels, and the number of classes.
SIDE, CHANNELS, CLASSES = 32, 3, 10
# Names of the columns of MovieLens ratings, in the order of the published file.
COLUMNS = ("user_id", "item_id", "rating", "timestamp")


def idx(content: bytes) -> NDArray[np.uint8]:
    """Return the array in an IDX file of unsigned bytes.

    The file consists of two zero bytes, the type 8, the number of dimensions, their sizes (four bytes each, the highest
    first), and the numbers in row-major order.

    Args:
        content: bytes of the file, unpacked.

    Returns:
        A uint8 array of the shape that the file states, with at least one dimension.

    Raises:
        ValueError: for another beginning, or for more or fewer numbers than the sizes in the file state.

    Source: LeCun, Cortes, Burges, the MNIST database.

    >>> idx(bytes([0, 0, 8, 2, 0, 0, 0, 2, 0, 0, 0, 3, 1, 2, 3, 4, 5, 6])).tolist()
    [[1, 2, 3], [4, 5, 6]]
    """
    if len(content) < 4 or content[:3] != bytes([0, 0, UNSIGNED_BYTES]) or content[3] == 0:
        raise ValueError(
            f"it starts with {content[:4].hex(' ') or 'nothing'}; an IDX file of bytes with 00 00 08 and n"
        )
    start = 4 + 4 * content[3]
    if len(content) < start:
        raise ValueError(f"it ends within the sizes of its {content[3]} dimensions; it is truncated")
    shape = tuple(int.from_bytes(content[k : k + 4], "big") for k in range(4, start, 4))
    if len(content) - start != math.prod(shape):
        how = "truncated" if len(content) - start < math.prod(shape) else "followed by something else"
        raise ValueError(f"it has {len(content) - start} numbers where its sizes {shape} promise others; it is {how}")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def cifar(content: bytes) -> NDArray[np.uint8]:
    """Return the rows of a batch of the binary version of CIFAR-10.

    A row holds a label, then the red, the green and the blue channel of a 32 x 32 image, each in row-major order.

    Args:
        content: bytes of the file.

    Returns:
        A uint8 array of shape (n, 3073): in each row the label, from 0 to 9, then the image.

    Raises:
        ValueError: for a size that is not a multiple of the size of a row, or for a label above 9.

    Source: Krizhevsky (technical report, 2009).
    """
    row = 1 + CHANNELS * SIDE**2
    if not content or len(content) % row:
        raise ValueError(f"it has {len(content)} bytes, no multiple of the {row} of a row; it is truncated or foreign")
    rows = np.frombuffer(content, np.uint8).reshape(-1, row)
    if rows[:, 0].max() >= CLASSES:
        raise ValueError(f"row {int(rows[:, 0].argmax())} has label {rows[:, 0].max()}; there are classes 0 to 9")
    return rows


def movielens(content: bytes) -> NDArray[np.float64]:
    r"""Return the ratings in a MovieLens ``u.data`` or RecBole ``.inter`` file, sorted by user, item and time.

    A line holds a user, an item, a rating and a time, separated by tabs. A RecBole file names its columns in its first
    line, as in ``user_id:token``, and may have them in any order. Both files give the same array.

    Args:
        content: bytes of the file.

    Returns:
        A float64 array of shape (n, 4): user and item as numbered in the file, from 1; rating; time in seconds since
        1970.

    Raises:
        ValueError: for other columns, no rows, or entries that are not numbers.

    Source: Harper and Konstan (ACM TiiS 2015).

    >>> movielens(b"2\t1\t4\t880\n1\t3\t5\t881\n").tolist()
    [[1.0, 3.0, 5.0, 881.0], [2.0, 1.0, 4.0, 880.0]]
    """
    text = content.decode("ascii", errors="replace")
    order = list(range(len(COLUMNS)))
    if ":" in text.partition("\n")[0]:
        names, _, text = text.partition("\n")
        found = [name.partition(":")[0] for name in names.strip().split("\t")]
        if sorted(found) != sorted(COLUMNS):
            raise ValueError(f"its columns are {found}; ratings have {list(COLUMNS)}")
        order = [found.index(name) for name in COLUMNS]
    if not text.strip():
        raise ValueError("it has no ratings")
    try:
        rows = np.loadtxt(io.StringIO(text), delimiter="\t", ndmin=2, comments=None)
    except ValueError as error:
        raise ValueError(f"it is no table of numbers separated by tabs: {error}") from error
    if rows.shape[1] != len(COLUMNS):
        raise ValueError(f"it has {rows.shape[1]} columns; ratings have {list(COLUMNS)}")
    rows = rows[:, order]
    if not np.isfinite(rows).all() or rows[:, :2].min() < 1 or (rows[:, :2] % 1).any():
        raise ValueError("its users and items must be numbered from 1, its ratings and times finite")
    return np.ascontiguousarray(rows[np.lexsort((rows[:, 3], rows[:, 1], rows[:, 0]))])
