import struct

import hypothesis.extra.numpy as arrays
import numpy as np
import pytest
from hypothesis import given

from ranklens.data import formats


def as_idx(array):
    sizes = b"".join(struct.pack(">I", size) for size in array.shape)
    return bytes([0, 0, 8, array.ndim]) + sizes + array.tobytes()


@given(arrays.arrays(np.uint8, arrays.array_shapes(max_dims=4, max_side=5)))
def test_idx_is_read_as_it_is_written(array):
    found = formats.idx(as_idx(array))
    assert found.dtype == np.uint8
    assert np.array_equal(found, array)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it starts with nothing"),
        (b"\x00\x00", "it starts with 00 00"),
        (b"\x00\x00\x08\x00\x01", "it starts with 00 00 08 00"),
        (b"\x1f\x8b\x08\x00 gzip", "it starts with 1f 8b 08 00; an IDX file of bytes with 00 00 08"),
        (b"\x00\x00\x0d\x01\x00\x00\x00\x01\x00", "it starts with 00 00 0d 01"),
        (b"\x00\x00\x08\x03\x00\x00", "ends within the sizes of its 3 dimensions"),
        (as_idx(np.ones((2, 3), np.uint8))[:-1], r"5 numbers where its sizes \(2, 3\) promise others; it is truncated"),
        (as_idx(np.ones((2, 3), np.uint8)) + b"x", "followed by something else"),
    ],
)
def test_what_is_no_idx_is_said(content, message):
    with pytest.raises(ValueError, match=message):
        formats.idx(content)


def test_cifar_rows():
    rows = np.arange(2 * 3073).reshape(2, 3073) % 10
    assert np.array_equal(formats.cifar(rows.astype(np.uint8).tobytes()), rows)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it has 0 bytes"),
        (bytes(3072), "it has 3072 bytes, no multiple of the 3073"),
        (bytes(3073) + bytes([10]) + bytes(3072), "row 1 has label 10"),
    ],
)
def test_what_is_no_cifar_is_said(content, message):
    with pytest.raises(ValueError, match=message):
        formats.cifar(content)


OWN = b"3\t1\t4\t880\n1\t2\t5\t881\n1\t1\t2\t882\n"
RECBOLE = b"user_id:token\titem_id:token\trating:float\ttimestamp:float\n" + OWN
TURNED = b"item_id:token\tuser_id:token\ttimestamp:float\trating:float\n1\t3\t880\t4\n2\t1\t881\t5.0\n1\t1\t882\t2"


@pytest.mark.parametrize("content", [OWN, RECBOLE, TURNED, OWN.replace(b"\n", b"\r\n")])
def test_all_forms_of_ratings_give_the_same_rows(content):
    found = formats.movielens(content)
    assert found.dtype == np.float64
    assert found.tolist() == [[1, 1, 2, 882], [1, 2, 5, 881], [3, 1, 4, 880]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it has no ratings"),
        (RECBOLE.partition(b"\n")[0], "it has no ratings"),
        (b"user_id:token\tage:token\n1\t2\n", r"its columns are \['user_id', 'age'\]"),
        (b"1\t2\t3\n", "it has 3 columns"),
        (b"1\t2\t3\t4\n1\t2\t3\n", "it is no table of numbers"),
        (b"1\t2\tgood\t4\n", "it is no table of numbers"),
        (b"\x89PNG\r\n\x1a\n\x00", "it is no table of numbers"),
        (b"0\t2\t3\t4\n", "numbered from 1"),
        (b"1.5\t2\t3\t4\n", "numbered from 1"),
        (b"1\t2\tnan\t4\n", "finite"),
        (b"1\tinf\t3\t4\n", "numbered from 1"),
    ],
)
def test_what_are_no_ratings_is_said(content, message):
    with pytest.raises(ValueError, match=message):
        formats.movielens(content)
