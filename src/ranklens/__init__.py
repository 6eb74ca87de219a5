"""Implicit rank lowering in deep learning: networks, their gradient flow, and what the theorems say about it."""

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version

# names are looked up on first use (PEP 562), so that `ranklens --help` need not import torch
_HOMES = {
    # networks
    "tensors.network": ["TensorNetwork"],
    "tensors.ensemble": ["stack"],
    "tensors.families": ["deep_matrix", "cp", "hierarchical", "tensor_train", "tensor_ring", "tucker"],
    "tensors.state_space": ["StateSpace"],
    "tensors.trees": ["ModeTree"],
    "tensors.truncation": ["truncate"],
    # problems
    "problems": ["Completion", "Sensing", "DenseSensing"],
    # dynamics
    "dynamics.flow": ["gradient_flow"],
    "dynamics.end_matrix": ["end_matrix_flow"],
    "dynamics.next_component": ["next_component"],
    "dynamics.greedy": ["greedy_learning"],
    "dynamics.descent": ["gradient_descent"],
    "dynamics.guess_and_check": ["guess_and_check"],
    "tensors.random_product": ["random_product"],
    "theory.convex": ["nuclear_norm_completion", "nuclear_norm_psd"],
    # measures
    "tensors.measures": [
        "singular_values",
        "effective_rank",
        "stable_rank",
        "numerical_rank",
        "schatten_norm",
        "nuclear_norm",
        "distance_to_rank",
        "matricize",
        "hierarchical_rank",
        "entanglement_entropy",
        "cp_rank_estimate",
    ],
    # practice
    "completers": ["MatrixCompleter", "TensorCompleter", "EntryRegressor"],
    # files and pictures
    "files.stored": ["save", "load"],
    "report.figures": ["plot"],
    # many runs
    "sweeps.sweep": ["sweep"],
    "sweeps.opened": ["open_store"],
}
# modules that are spoken of whole: rl.init.normal_, rl.nn.compress
_ROOMS = {
    "data": "data",
    "init": "tensors.init",
    "losses": "problems.losses",
    "measures": "tensors.measures",
    "nn": "nn",
    "optim": "dynamics.optim",
    "problems": "problems",
    "targets": "problems.targets",
    "theory": "theory",
}
# names that return records: in a notebook, `run.rl` shows the picture of a record
_RECORDS = {"gradient_flow", "gradient_descent", "end_matrix_flow", "sweep", "open_store", "load", "nn", "plot"}
_HOME = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [*_HOME, *_ROOMS, "__version__"]  # noqa: PLE0604, F822  (all are strings, `__version__` is lazy)


def __getattr__(name: str) -> object:
    if name in _HOME:
        value = getattr(import_module(f"ranklens.{_HOME[name]}"), name)
    elif name in _ROOMS:
        value = import_module(f"ranklens.{_ROOMS[name]}")
    elif name == "__version__":
        try:
            value = version("ranklens")
        except PackageNotFoundError:  # the source files are on the path, and nothing is installed
            value = "unknown"
    else:
        raise AttributeError(f"module 'ranklens' has no attribute {name!r}")
    if name in _RECORDS:
        import_module("ranklens.dynamics.accessor")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
