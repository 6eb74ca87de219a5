"""The first offender is named, whatever the form of the input."""

import numpy as np
import pytest
import torch

from ranklens.tensors.checks import check_finite, check_indices, check_nodes, check_vectors


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int64])
def test_indices_of_any_width_become_int64(dtype):
    found = check_indices(torch.tensor([[0, 3], [1, 4]], dtype=dtype), (2, 5))
    assert found.dtype == torch.int64
    assert found.tolist() == [[0, 3], [1, 4]]


def test_every_single_index_outside_its_mode_is_found():
    shape = (2, 5, 3)
    inside = np.zeros((4, 3), dtype=int)
    for row in range(4):
        for mode, size in enumerate(shape):
            assert check_indices(inside, shape).shape == (4, 3)
            for wrong in (-1, size):
                indices = inside.copy()
                indices[row, mode] = wrong
                with pytest.raises(
                    ValueError, match=f"index {wrong} in row {row} is outside mode {mode} of size {size}"
                ):
                    check_indices(indices, shape)
            indices[row, mode] = size - 1
            check_indices(indices, shape)


@pytest.mark.parametrize("indices", [[[0.0, 1.0]], [[True, False]], np.ones((1, 2))])
def test_indices_are_integers(indices):
    with pytest.raises(TypeError, match="mode indices are integers"):
        check_indices(indices, (2, 2))


def test_nodes_of_one_dtype():
    assert [node.dtype for node in check_nodes([[[1, 2]], np.ones((2, 2))])] == [torch.float64] * 2
    with pytest.raises(TypeError, match=r"node 1 is torch\.float32 on cpu, node 0 torch\.float64"):
        check_nodes([np.ones(2), np.ones(2, dtype=np.float32)])
    with pytest.raises(TypeError, match=r"nodes\[1\] has complex numbers"):
        check_nodes([np.ones(2), np.ones(2) * 1j])


def test_views_of_one_parameter_are_different_nodes():
    stack = torch.ones(2, 3, requires_grad=True)
    assert len(check_nodes([stack[0], stack[1]])) == 2


def test_a_block_of_vectors_is_its_parts():
    block = torch.arange(12.0).reshape(2, 3, 2)
    for vectors in (block, block.numpy(), list(block.unbind(1)), [part.tolist() for part in block.unbind(1)]):
        parts = check_vectors(vectors, (2, 2, 2))
        assert [part.tolist() for part in parts] == [part.tolist() for part in block.unbind(1)]
    with pytest.raises(ValueError, match=r"vectors of mode 1 have shape \(3, 2\); expected \(2, 2\)"):
        check_vectors([torch.ones(2, 2), torch.ones(3, 2)], (2, 2))


def test_the_first_entry_that_is_not_finite_is_named():
    T = torch.ones(2, 2, 2)
    assert check_finite("T", T) is T
    T[1, 0, 1] = torch.inf
    T[1, 1, 0] = torch.nan
    with pytest.raises(ValueError, match=r"entry \(1, 0, 1\) of T is inf"):
        check_finite("T", T)
