"""Networks of every family by name, random einsums with bonds of any order, and problems for them."""

import torch
from hypothesis import strategies as st

import ranklens as rl

UNEVEN = rl.ModeTree.nested(((0, 1), (2, (3, 4))))

NETWORKS = {
    "matrix depth 1": lambda std: rl.deep_matrix((3, 4), depth=1, std=std),
    "matrix depth 2": lambda std: rl.deep_matrix((3, 4), depth=2, std=std),
    "matrix depth 3": lambda std: rl.deep_matrix((4, 3), depth=3, std=std),
    "matrix depth 4": lambda std: rl.deep_matrix((3, 3), depth=4, width=(3, 4, 3), std=std),
    "cp order 2": lambda std: rl.cp((4, 3), rank=3, std=std),
    "cp order 3": lambda std: rl.cp((3, 4, 2), rank=3, std=std),
    "cp order 4": lambda std: rl.cp((3, 2, 3, 2), rank=4, std=std),
    "cp order 5": lambda std: rl.cp((2, 3, 2, 2, 2), rank=2, std=std),
    "hierarchical binary": lambda std: rl.hierarchical((2, 3, 2, 3), width=3, std=std),
    "hierarchical uneven": lambda std: rl.hierarchical((2, 3, 2, 2, 3), width=2, tree=UNEVEN, std=std),
    "hierarchical distant": lambda std: rl.hierarchical((2, 2, 3, 3), width=3, tree=rl.ModeTree.distant(4, 2), std=std),
    "hierarchical wide pool": lambda std: rl.hierarchical((2,) * 5, width=2, tree=rl.ModeTree.adjacent(5, 3), std=std),
    "tensor train": lambda std: rl.tensor_train((3, 2, 3, 2), rank=(2, 3, 2), std=std),
    "tensor ring": lambda std: rl.tensor_ring((3, 2, 3), rank=2, std=std),
    "tucker": lambda std: rl.tucker((3, 2, 3), rank=(2, 2, 3), std=std),
    "scalar": lambda std: rl.TensorNetwork("i,ij,j->", _scalar(std)),
}


def _scalar(std):
    made = torch.Generator().manual_seed(5)
    return [std * torch.randn(*shape, generator=made, dtype=torch.float64) for shape in [(3,), (3, 2), (2,)]]


@st.composite
def einsums(draw):
    """Draw an einsum and its nodes: 2 to 5 nodes, 1 to 4 bonds of random order, and at most one mode per node."""
    count = draw(st.integers(2, 5))
    labels = [[] for _ in range(count)]
    for bond in "rstu"[: draw(st.integers(1, 4))]:
        order = draw(st.integers(2, count))
        for k in draw(st.permutations(range(count)))[:order]:
            labels[k].append(bond)
    out = ""
    for k, mode in zip(range(count), "abcde", strict=False):
        if not labels[k] or draw(st.booleans()):
            labels[k].insert(draw(st.integers(0, len(labels[k]))), mode)
            out += mode
    sizes = {x: draw(st.integers(1, 3)) for x in "rstuabcde"}
    made = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    nodes = [torch.randn(*[sizes[x] for x in names], generator=made, dtype=torch.float64) for names in labels]
    out = "".join(draw(st.permutations(out)))
    return ",".join("".join(names) for names in labels) + "->" + out, nodes


@st.composite
def truncations(draw):
    """A random einsum, and widths for some of its bonds."""
    equation, nodes = draw(einsums())
    left, out = equation.split("->")
    sizes = {
        x: d for names, node in zip(left.split(","), nodes, strict=True) for x, d in zip(names, node.shape, strict=True)
    }
    named = [x for x in sizes if x not in out and draw(st.booleans())]
    return equation, nodes, {bond: draw(st.integers(1, sizes[bond])) for bond in named}


def problem(net, seed=0):
    """Return a completion of about half the entries of a random tensor of the shape of a network."""
    made = torch.Generator().manual_seed(seed + 100)
    target = torch.randn(net.shape, generator=made, dtype=torch.float64)
    if not net.shape:
        return Scalar()
    return rl.Completion.sample(target, observed=max(1, target.numel() // 2), seed=seed)


class Scalar:
    """A problem for networks without modes: the squared distance of their value from 1.3."""

    def loss(self, tensor):
        value = tensor.tensor() if isinstance(tensor, rl.TensorNetwork) else tensor
        return (value - 1.3) ** 2
