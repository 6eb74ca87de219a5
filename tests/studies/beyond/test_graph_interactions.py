"""Parts of the study against literal counterparts."""

import math

import numpy as np
import pytest
import torch

from ranklens import data
from ranklens.nn.walk_index import adjacency
from ranklens.studies.beyond import graph_interactions as study


def test_edges_that_are_needed():
    assert study.needed((1.0, 0.5, 0.0), np.array([0.8, 0.79, 0.78])) == 0.0
    assert study.needed((1.0, 0.5, 0.0), np.array([1.0, 0.9, 1.0])) == pytest.approx(0.75)
    assert math.isnan(study.needed((1.0, 0.0), np.array([1.0, math.nan])))


def test_kept_edges_are_the_last_in_the_order():
    edges, order = np.array([(0, 1), (1, 2), (2, 3), (0, 3)]), np.array([2, 0, 3, 1])
    assert study.left_after(edges, order, 0.5).tolist() == [[1, 2], [0, 3]]
    assert study.left_after(edges, order, 1.0).tolist() == edges.tolist()
    assert len(study.left_after(edges, order, 0.0)) == 0


def test_graphs_in_one_matrix_are_separate(tolerance):
    graphs = [np.array([(0, 1), (1, 2)]), np.array([(0, 2)])]
    together = study._together(graphs, 3).to_dense()
    wanted = torch.block_diag(*[study.spread(edges, 3) for edges in graphs])
    torch.testing.assert_close(together, wanted, rtol=tolerance["float32"], atol=0.0)


def test_the_cliques_are_joined_by_one_edge_and_shared_by_the_images():
    near = adjacency(study.cliques(), 2 * study.PATCHES)
    assert near[: study.PATCHES, study.PATCHES :].sum() == 1
    assert (near[: study.PATCHES, : study.PATCHES] == 1).all()
    mixed = np.array(study.side_of("mixed"))
    assert (mixed < study.PATCHES).sum() == (mixed >= study.PATCHES).sum() == study.PATCHES // 2


def test_patches_are_squares_of_the_images():
    pairs = data.same_class(data.images("digits").train, 3, distance=0, canvas=(8, 16))
    placed = study._placed(pairs, ["apart", "mixed"])
    first = pairs.images[pairs.pairs[0, 0], 0]
    assert torch.equal(placed[0, 0, 5], first[2:4, 2:4].reshape(-1))
    assert torch.equal(placed[1, 0, study.side_of("mixed")[5]], placed[0, 0, 5])
