"""Tensor networks in PyTorch models: circuits, factored layers, compression, rank measures, and locality penalties."""

from ranklens.nn import callbacks
from ranklens.nn.attention_products import attention_products
from ranklens.nn.checkpoint import load_weights
from ranklens.nn.circuits import ArithmeticCircuit, LinearCircuit, circuit, product_pool
from ranklens.nn.composition import Composition
from ranklens.nn.compress import compress, pareto
from ranklens.nn.compressibility import compressibility
from ranklens.nn.compression import Compression
from ranklens.nn.edge_order import random_order, resistance_order, walk_index_order
from ranklens.nn.factorable import factorable
from ranklens.nn.kernel_chain import KernelChain
from ranklens.nn.layer_kinds import register_layer
from ranklens.nn.locality_penalty import LocalityPenalty, locality_penalty
from ranklens.nn.locality_profile import locality_profile
from ranklens.nn.overparameterize import collapse, overparameterize
from ranklens.nn.product_graph import graph_separation_rank
from ranklens.nn.prune import prune
from ranklens.nn.rank_change import rank_difference
from ranklens.nn.rank_monitor import RankMonitor
from ranklens.nn.rank_profile import rank_profile
from ranklens.nn.regions import PatchPairs
from ranklens.nn.resnet import resnet
from ranklens.nn.restore import restore
from ranklens.nn.separation_rank import Separation, separation_rank
from ranklens.nn.walk_index import WalkBound, walk_bound, walk_index

__all__ = [
    "ArithmeticCircuit",
    "Composition",
    "Compression",
    "KernelChain",
    "LinearCircuit",
    "LocalityPenalty",
    "PatchPairs",
    "RankMonitor",
    "Separation",
    "WalkBound",
    "attention_products",
    "callbacks",
    "circuit",
    "collapse",
    "compress",
    "compressibility",
    "factorable",
    "graph_separation_rank",
    "load_weights",
    "locality_penalty",
    "locality_profile",
    "overparameterize",
    "pareto",
    "product_pool",
    "prune",
    "random_order",
    "rank_difference",
    "rank_profile",
    "register_layer",
    "resistance_order",
    "resnet",
    "restore",
    "separation_rank",
    "walk_bound",
    "walk_index",
    "walk_index_order",
]
