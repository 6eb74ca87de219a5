"""Tensor networks as layers: the circuits that factorizations are, factored layers of any model, and their ranks."""

from ranklens.nn.checkpoint import load_weights
from ranklens.nn.circuits import ArithmeticCircuit, LinearCircuit, circuit, product_pool
from ranklens.nn.composed import Composition
from ranklens.nn.compress import Compression, compress, pareto, prune
from ranklens.nn.kernel_chain import KernelChain
from ranklens.nn.overparameterize import collapse, overparameterize
from ranklens.nn.rank_monitor import RankMonitor
from ranklens.nn.rank_profile import rank_profile

__all__ = [
    "ArithmeticCircuit",
    "Composition",
    "Compression",
    "KernelChain",
    "LinearCircuit",
    "RankMonitor",
    "circuit",
    "collapse",
    "compress",
    "load_weights",
    "overparameterize",
    "pareto",
    "product_pool",
    "prune",
    "rank_profile",
]
